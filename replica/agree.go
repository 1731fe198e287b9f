package replica

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// A message names its key up to three times: in a header, which ledgers go by, as instance_pk, and in the columns of the
// instance. Where they differ nobody can tell which row is meant, and a wrong guess would write one row under the revision of
// another.

// maxRevision is beyond what a key is ever written. One more would close the gate for every message to come.
const maxRevision int64 = 1 << 53

// checkClaims fails where the gate cannot believe what the message says of itself.
func checkClaims(m *envelope.Message) error {
	if m.Revision < 0 || m.Revision > maxRevision {
		return fmt.Errorf("cqrs_revision is %d: want 0 to %d", m.Revision, maxRevision)
	}
	if !hasPK(m) {
		return nil
	}
	key, err := envelope.KeyOf(m.PK)
	if err != nil {
		return fmt.Errorf("instance_pk: %w", err)
	}
	if key != m.Key {
		return fmt.Errorf("instance_pk is %.100q, and the header cqrs_key %.100q: send it again from the master", key, m.Key)
	}
	if m.Signal != envelope.Delete {
		return nil
	}
	return checkDeleted(m, key)
}

// checkDeleted compares instance_pk with the key of a DELETE, which is always called id.
func checkDeleted(m *envelope.Message, key string) error {
	fields, err := m.Fields()
	if err != nil || fields["id"] == nil {
		return err
	}
	if id, err := envelope.KeyOf(fields["id"]); err == nil && id != key {
		return fmt.Errorf("instance_pk is %.100q, and the id of instance_data %.100q: send it again from the master", key, id)
	}
	return nil
}

// hasPK says that instance_pk is not null, which only messages of django-cqrs may have.
func hasPK(m *envelope.Message) bool { return len(m.PK) > 0 && string(m.PK) != "null" }

// checkKeyColumns compares instance_pk with the columns of the primary key, as the database gets them.
func (m *mirror) checkKeyColumns(msg *envelope.Message, fields map[string]json.RawMessage, r *row) error {
	var keys []*schema.Field
	var texts []string
	for i, f := range m.table.PKs {
		if _, own := m.fixed[f.Name]; !own {
			keys, texts = append(keys, f), append(texts, r.values[i])
		}
	}
	parts, err := keyParts(msg, len(keys))
	if err != nil {
		return fmt.Errorf("%w of table %s", err, m.table.Name)
	}
	if parts == nil {
		return nil
	}
	instance := reflect.New(m.table.Type).Elem()
	for i, f := range keys {
		name := m.fieldName(f.Name)
		if string(parts[i]) == string(fields[name]) {
			continue
		}
		value := f.Value(instance)
		if err := m.shapes.decode(value, parts[i]); err != nil || m.render([]cell{{f, value}})[0] != texts[i] {
			return fmt.Errorf("instance_pk is %.100s, and the field %q, which is the primary key of table %s, %.100s: "+
				"the table must be keyed by what the master's is", msg.PK, name, m.table.Name, fields[name])
		}
	}
	return nil
}

// keyParts are the values of instance_pk, or of the key where that is null; nil where there is none.
func keyParts(msg *envelope.Message, n int) ([]json.RawMessage, error) {
	pk := msg.PK
	switch {
	case !hasPK(msg) && (n > 1 || msg.Key == ""):
		return nil, nil
	case !hasPK(msg):
		pk, _ = json.Marshal(msg.Key) // cannot fail for a string
	case n == 0:
		return nil, nil
	}
	if n == 1 && pk[0] != '[' {
		return []json.RawMessage{pk}, nil
	}
	var parts []json.RawMessage
	if pk[0] != '[' || json.Unmarshal(pk, &parts) != nil {
		parts = []json.RawMessage{pk}
	}
	if len(parts) != n {
		return nil, fmt.Errorf("instance_pk has %d values, for %d primary key columns", len(parts), n)
	}
	return parts, nil
}
