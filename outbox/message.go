package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// messages writes the messages of the changes that have one.
func (m *model) messages(
	ctx context.Context, tx bun.IDB, changes []change,
) ([]outgoing.Message, error) {
	common, err := m.common(ctx)
	if err != nil {
		return nil, err
	}
	states, err := m.states(ctx, tx, changes)
	if err != nil {
		return nil, err
	}
	var messages []outgoing.Message
	for i, c := range changes {
		message := common
		message.Key, message.PK = c.mark.key, c.mark.pk
		message.Revision, message.After = c.revision.Revision, c.revision.After
		message.Follows = c.revision.Follows
		message.Updated = c.revision.Updated
		say(&message, c.mark.said)
		switch c.outcome {
		case saved:
			message.Signal = string(envelope.Save)
			if m.ttl > 0 {
				message.Expires = c.revision.Updated.Add(m.ttl)
			}
			if message.Data, err = envelope.Shelve(states[i]); err == nil {
				message.Previous, err = m.previous(c)
			}
		case deleted:
			message.Signal = string(envelope.Delete)
			message.Data, err = m.deleted(ctx, c)
		default:
			continue
		}
		if m.overlooks(ctx, &changes[i], err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", c.mark.key, err)
		}
		messages = append(messages, message)
	}
	return messages, nil
}

// say has a message carry what the transaction said that wrote its row, in place of what the sweep
// would.
func say(message *outgoing.Message, said capture.Said) {
	if said.Meta != nil {
		message.Meta = said.Meta
	}
	if said.Headers != nil {
		message.Headers = said.Headers
	}
	if said.CorrelationID != "" {
		message.CorrelationID = said.CorrelationID
	}
}

// overlooks drops a change whose row holds what cannot travel, where the box observes only.
func (m *model) overlooks(ctx context.Context, c *change, err error) bool {
	if !errors.As(err, new(*ValueError)) || !m.box.observer.allows(ctx,
		fmt.Errorf("key %s: %w", c.mark.key, err)) {
		return false
	}
	c.outcome = unchanged
	return true
}

// common is what the messages of one model and transaction share.
func (m *model) common(ctx context.Context) (outgoing.Message, error) {
	meta, metaErr := m.metaJSON(users(ctx))
	headers, headersErr := m.box.headers(users(ctx))
	correlation, correlationErr := correlationOf(ctx)
	return outgoing.Message{Model: m.id, Meta: meta, Headers: headers, CorrelationID: correlation,
			Keep: m.everyRevision},
		errors.Join(metaErr, headersErr, correlationErr)
}

// states serializes the rows of the changes that are sent as SAVE, all at once.
func (m *model) states(
	ctx context.Context, tx bun.IDB, changes []change,
) ([]json.RawMessage, error) {
	states := make([]json.RawMessage, len(changes))
	var rows []reflect.Value
	var at []int
	for i, c := range changes {
		if c.outcome == saved {
			rows, at = append(rows, c.row.Value), append(at, i)
		}
	}
	if m.serialize == nil || len(rows) == 0 {
		for _, i := range at {
			var err error
			states[i], err = m.encode(changes[i].row, m.relations)
			if err != nil && !m.overlooks(ctx, &changes[i], err) {
				return nil, fmt.Errorf("key %s: %w", changes[i].mark.key, err)
			}
		}
		return states, nil
	}
	objects, err := m.serialize(users(ctx), tx, rows)
	if err != nil {
		return nil, fmt.Errorf("serializer: %w", err)
	}
	for n, i := range at {
		if states[i], err = m.serialized(objects[n]); err != nil {
			return nil, fmt.Errorf("key %s: serializer: %w", changes[i].mark.key, err)
		}
	}
	return states, nil
}

// serialized checks what replicas rely on in an object of the user's making.
func (m *model) serialized(object any) (json.RawMessage, error) {
	text, err := marshal(object)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("a %T does not marshal to a JSON object", object)
	}
	if fields[revisionColumn] != nil || fields[updatedColumn] != nil {
		maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return isStamp(name) })
		if text, err = marshal(fields); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, pk := range m.table.PKs {
		if _, found := fields[pk.Name]; !found {
			errs = append(errs,
				fmt.Errorf("the object lacks the primary key %q, by which replicas find their row",
					pk.Name))
		}
	}
	return text, errors.Join(errs...)
}

// previous holds the old values of the tracked columns that changed, nil if there are none. A key
// that was never sent has the value null for each, as django-cqrs writes it.
func (m *model) previous(c change) (json.RawMessage, error) {
	if len(m.tracked) == 0 {
		return nil, nil
	}
	before, err := m.trackedBefore(c)
	if err != nil {
		return nil, err
	}
	var changed []*schema.Field
	for _, field := range m.tracked {
		now, err := m.encodeTracked(field, c.row)
		if err != nil {
			return nil, err
		}
		if old := before[field.Name]; !bytes.Equal(old, now) {
			changed = append(changed, field)
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	previous := []byte{'{'}
	for _, field := range changed {
		previous = append(appendName(previous, m.fieldName(field)), before[field.Name]...)
	}
	return envelope.Shelve(append(previous, '}'))
}

// trackedBefore are the values of the tracked columns that the ledger has, null where it has none.
func (m *model) trackedBefore(c change) (map[string]json.RawMessage, error) {
	before := make(map[string]json.RawMessage, len(m.tracked))
	if c.revision.Tracked != nil && !c.revision.WasDeleted {
		kept, odd, err := envelope.Unshelve(c.revision.Tracked)
		if err == nil {
			err = json.Unmarshal(kept, &before)
		}
		if err != nil {
			return nil, fmt.Errorf("tracked values in the ledger: %w", err)
		}
		maps.Copy(before, odd)
	}
	for _, field := range m.tracked {
		if before[field.Name] == nil {
			before[field.Name] = null
		}
	}
	return before, nil
}

func (m *model) encodeTracked(field *schema.Field, row record) (json.RawMessage, error) {
	value, err := encodeField(field, row)
	if err != nil {
		return nil, fmt.Errorf("column %s: %w", field.Name, err)
	}
	if m.finite {
		return envelope.Finite(value), nil
	}
	return value, nil
}

// deleted is the instance_data of a DELETE.
func (m *model) deleted(ctx context.Context, c change) (json.RawMessage, error) {
	if m.deleteData == nil {
		return envelope.DeleteData(c.mark.pk), nil
	}
	custom := maps.Clone(m.deleteData(users(ctx), c.mark.row))
	text, err := marshal(map[string]any{"id": json.RawMessage(c.mark.pk), "custom": custom})
	if err != nil {
		return nil, fmt.Errorf("delete data: %w", err)
	}
	return text, nil
}

// encodeColumns writes the tracked columns of a row as an object for the ledger, under their own
// names.
func (m *model) encodeColumns(row record) (json.RawMessage, error) {
	b := []byte{'{'}
	for _, field := range m.tracked {
		value, err := m.encodeTracked(field, row)
		if err != nil {
			return nil, err
		}
		b = append(appendName(b, field.Name), value...)
	}
	return envelope.Shelve(append(b, '}'))
}
