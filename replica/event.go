package replica

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// Event is one change of one instance, as a handler sees it.
type Event[T any] struct {
	// Signal is envelope.Save, envelope.Delete or envelope.Sync.
	Signal envelope.Signal
	// Sync says that the state was sent on request, as a repair or a first load: nothing happened
	// on the master.
	Sync bool
	// Model is the CQRS id, Key the instance's primary key as text (a JSON array where it is
	// composite).
	Model string
	Key   string
	// Revision counts the instance's changes from 0; Updated is when the master made this one, zero
	// if unknown.
	Revision int64
	Updated  time.Time
	// Data is the instance. Of a delete it has the primary key only.
	Data T
	// Raw is instance_data as it came; Previous and Meta are JSON objects or nil.
	Raw      json.RawMessage
	Previous json.RawMessage
	Meta     json.RawMessage
	// CorrelationID and Headers (traceparent and the like) come from where the change was made.
	CorrelationID string
	Headers       map[string]string
}

func newEvent[T any](
	b *binding, m *envelope.Message, fields map[string]json.RawMessage,
) (Event[T], error) {
	event := Event[T]{
		Signal:        m.Signal,
		Sync:          m.Signal == envelope.Sync,
		Model:         m.Model,
		Key:           m.Key,
		Revision:      m.Revision,
		Updated:       m.Updated,
		Raw:           m.Data,
		Previous:      m.Previous,
		Meta:          m.Meta,
		CorrelationID: m.CorrelationID,
		Headers:       m.Headers,
	}
	data := reflect.ValueOf(&event.Data).Elem()
	if m.Signal == envelope.Delete {
		return event, b.decodeDeleted(data, fields)
	}
	return event, b.decodeInstance(data, m, fields)
}

func (b *binding) decodeInstance(
	dst reflect.Value, msg *envelope.Message, fields map[string]json.RawMessage,
) error {
	for _, m := range b.shapes[b.table.Type] {
		name := b.fieldName(m.name)
		raw, ok := fields[name]
		if !ok || m.isForeignKey(raw) {
			continue
		}
		value := m.field.Value(dst)
		if err := b.shapes.decode(value, readable(b.asSent(msg, name, raw),
			value.Type())); err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
	}
	return nil
}

// decodeDeleted fills the primary key of dst, or its column id where bun sees no primary key.
func (b *binding) decodeDeleted(dst reflect.Value, fields map[string]json.RawMessage) error {
	keys := b.table.PKs
	if id := b.table.FieldMap["id"]; len(keys) == 0 && id != nil {
		keys = []*schema.Field{id}
	}
	if len(keys) == 0 {
		return nil
	}
	return b.decodeKey(dst, keys, fields)
}
