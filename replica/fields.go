package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// fieldsOf is the instance by field name. The revision and the time are fields like any other. A
// field that is NaN or an infinity is that bare token; within a field they are null.
func fieldsOf(m *envelope.Message) (map[string]json.RawMessage, error) {
	fields, err := m.Fields()
	if err != nil {
		return nil, err
	}
	fields["cqrs_revision"] = strconv.AppendInt(nil, m.Revision, 10)
	fields["cqrs_updated"] = json.RawMessage("null")
	if !m.Updated.IsZero() {
		fields["cqrs_updated"] = strconv.AppendQuote(nil, envelope.FormatTime(m.Updated))
	}
	for name, text := range m.NonFinite {
		if envelope.IsNonFinite(text) {
			fields[name] = text
		}
	}
	return fields, nil
}

// isNull says that there is no value for a field of type typ. NaN and the infinities are values of
// floats only.
func isNull(raw json.RawMessage, typ reflect.Type) bool {
	return string(raw) == "null" || envelope.IsNonFinite(raw) && !holdsNonFinite(typ)
}

// checkRequired names every required field that a save lacks.
func (b *binding) checkRequired(m *envelope.Message, fields map[string]json.RawMessage) error {
	if len(b.required) == 0 || m.Signal == envelope.Delete {
		return nil
	}
	var missing []string
	for _, name := range b.required {
		if raw, ok := fields[name]; !ok || string(raw) == "null" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("required fields are missing: %s", quotedList(missing))
	}
	return nil
}

// fieldName is what the message calls a column.
func (b *binding) fieldName(column string) string {
	if name, ok := b.renamed[column]; ok {
		return name
	}
	return column
}

// decodeKey reads the key of a DELETE, which is called id whatever the column is called, and is a
// list in the order of the columns where there are several.
func (b *binding) decodeKey(
	dst reflect.Value, keys []*schema.Field, fields map[string]json.RawMessage,
) error {
	parts := []json.RawMessage{fields["id"]}
	if raw := fields["id"]; len(keys) == 1 && len(raw) > 0 && raw[0] == '[' {
		return errors.New("the master's key has several columns, and this replica's one")
	}
	if len(keys) > 1 {
		parts = nil // or json would write the first part over the message
		if err := json.Unmarshal(fields["id"], &parts); err != nil || len(parts) != len(keys) {
			return fmt.Errorf("field \"id\": want a list of %d values, one per primary key column "+
				"of %s",
				len(keys), b.table.Type)
		}
	}
	for i, field := range keys {
		if parts[i] == nil || isNull(parts[i], field.StructField.Type) {
			return errors.New(`field "id" with the primary key is missing`)
		}
		if err := b.decodeKeyPart(field, dst, parts[i]); err != nil {
			return err
		}
	}
	return nil
}
