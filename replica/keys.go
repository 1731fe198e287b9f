package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// keyError is returned for a primary key of the master that no row of the replica's table can have.
// It is never taken for a row that is not there.
type keyError struct {
	Model, Key string
	Err        error
}

func (e *keyError) Error() string {
	return fmt.Sprintf("key %s of model %q is no key of the replica's table: %v; "+
		"give the table the key columns and types of the master's", e.Key, e.Model, e.Err)
}

func (e *keyError) Unwrap() error { return e.Err }

// wireKey are the primary key columns whose values the master knows: all but those of Constant.
func (b *binding) wireKey() []*schema.Field {
	return slices.DeleteFunc(slices.Clone(b.table.PKs), func(f *schema.Field) bool {
		_, ours := b.fixed[f.Name]
		return ours
	})
}

// checkKey makes sure that a row can be found by what the master calls it.
func (b *binding) checkKey() error {
	for column, value := range b.constants {
		f, kind := b.table.FieldMap[column], reflect.ValueOf(value).Kind()
		if of := f.IndirectType.Kind(); isScalar(kind) && isScalar(of) &&
			(kind == reflect.String) != (of == reflect.String) {
			return fmt.Errorf("Constant(%q): want a value for a column of type %s, not a %s",
				column, f.IndirectType, kind)
		}
	}
	for _, f := range b.table.PKs {
		if _, computed := b.fixed[f.Name]; !computed {
			continue
		}
		value, constant := b.constants[f.Name]
		if !constant {
			return fmt.Errorf("Computed(%q): the column is part of the primary key, and a delete "+
				"carries nothing to compute it from: use Constant, or another key", f.Name)
		}
		if err := setConstant(f, reflect.New(b.table.Type).Elem(), value); err != nil {
			return err
		}
	}
	if len(b.wireKey()) == 0 {
		return errors.New("every column of the primary key is a Constant: one must hold the " +
			"master's key")
	}
	return nil
}

// setConstant puts the value of a Constant into the column of a row.
func setConstant(f *schema.Field, row reflect.Value, value any) error {
	from, to := reflect.ValueOf(value), f.Value(row)
	switch {
	case !from.IsValid():
		return fmt.Errorf("Constant(%q): a primary key cannot be NULL", f.Name)
	case !isScalar(from.Kind()) || !from.CanConvert(to.Type()) ||
		(from.Kind() == reflect.String) != (to.Kind() == reflect.String):
		return fmt.Errorf("Constant(%q): want a value for a column of type %s, not a %s",
			f.Name, to.Type(), from.Type())
	}
	to.Set(from.Convert(to.Type()))
	return nil
}

// isScalar says that a value is itself in every row and at every start, and not an expression.
func isScalar(kind reflect.Kind) bool {
	return kind >= reflect.Bool && kind <= reflect.Uint64 || kind == reflect.String
}

// rowOfKey decodes a primary key into a row with nothing else.
func (b *binding) rowOfKey(pk json.RawMessage) (reflect.Value, error) {
	row := reflect.New(b.table.Type).Elem()
	if err := b.decodeKey(row, b.wireKey(), map[string]json.RawMessage{"id": pk}); err != nil {
		return row, &keyError{b.model, string(pk), err}
	}
	for _, f := range b.table.PKs {
		if value, ours := b.constants[f.Name]; ours {
			if err := setConstant(f, row, value); err != nil {
				return row, err
			}
		}
	}
	return row, nil
}

// decodeKeyPart reads a value of one key column. An integer has one spelling: 007 would become the
// key of 7.
func (b *binding) decodeKeyPart(f *schema.Field, row reflect.Value, raw json.RawMessage) error {
	value := f.Value(row)
	if err := b.shapes.decode(value, raw); err != nil {
		return fmt.Errorf("primary key %q: %w", f.Name, err)
	}
	value = reflect.Indirect(value)
	text, _ := scalarText(raw)
	switch {
	case stored.IsUUID(value.Type()): // the ledger has it in one spelling (spellKey)
	case decodesItself(value.Type()) && value.Kind() != reflect.Array:
	case value.CanInt() && text != strconv.FormatInt(value.Int(), 10),
		value.CanUint() && text != strconv.FormatUint(value.Uint(), 10):
		return fmt.Errorf("primary key %q: %s would become another key in a column of integers",
			f.Name, raw)
	case value.Kind() == reflect.Array && fmt.Sprint(value.Interface()) != text: // a uuid in Go
		return fmt.Errorf("primary key %q: %s is spelled otherwise here: %v", f.Name, raw,
			value.Interface())
	}
	if f.Tag.HasOption("type:date") || strings.EqualFold(f.UserSQLType, "date") {
		return checkDay(f, raw)
	}
	return nil
}

// checkDay refuses the key that a date would cut off.
func checkDay(f *schema.Field, raw json.RawMessage) error {
	text, _ := scalarText(raw)
	t, err := envelope.ParseTime(text)
	if err == nil && (t.UTC().Hour() != 0 || t.Minute() != 0 || t.Second() != 0 ||
		t.Nanosecond() != 0) {
		return fmt.Errorf("primary key %q: %s has a clock, and the column is a date", f.Name, raw)
	}
	return nil
}

// checkSameKey refuses a message whose instance does not carry the master's key in the columns that
// the replica's rows are known by. Its deletes, and every diff, would mean other rows.
func (m *mirror) checkSameKey(
	msg *envelope.Message, key []*schema.Field, fields map[string]json.RawMessage,
) error {
	if len(msg.PK) == 0 || string(msg.PK) == "null" {
		return nil
	}
	names, parts := make([]string, len(key)), []json.RawMessage{msg.PK}
	for i, f := range key {
		names[i] = m.fieldName(f.Name)
	}
	if msg.PK[0] == '[' {
		parts = nil // or json would write into the message
		if err := json.Unmarshal(msg.PK, &parts); err != nil {
			return fmt.Errorf("instance_pk: %w", err)
		}
	}
	same := len(parts) == len(key)
	for i := 0; same && i < len(parts); i++ {
		given := spelled(key[i], fields[names[i]])
		same = bytes.Equal(parts[i], given) || sameValue(parts[i], given)
	}
	if same {
		return nil
	}
	return fmt.Errorf("the master's key is %s, which is not what the message has in %s: this "+
		"replica's rows are keyed by another column, or the columns of the key stand in another "+
		"order; key the table as the master's is keyed", msg.PK, quotedList(names))
}

func sameValue(a, b json.RawMessage) bool {
	return bytes.Equal(envelope.AppendCanonical(nil, a), envelope.AppendCanonical(nil, b))
}

// keyKinds asks the database once of what kinds the columns of the key are.
func (b *binding) keyKinds(ctx context.Context, db bun.IDB) ([]stored.Kind, error) {
	if known := b.kinds.Load(); known != nil {
		return *known, nil
	}
	kinds, err := stored.Kinds(ctx, db, b.table, b.table.PKs)
	if err == nil {
		b.kinds.Store(&kinds)
	}
	return kinds, err
}

// checkStored refuses rows whose key the database stored as another one: cut to the scale of a
// number or to the precision of a time. Two keys of the master may be one row then.
func (m *mirror) checkStored(ctx context.Context, tx bun.Tx, rows []*row) error {
	kinds, err := m.keyKinds(ctx, tx)
	if err != nil {
		return err
	}
	exact := true
	for i, kind := range kinds {
		for _, r := range rows {
			if kind.IsRespelled(strings.Trim(r.values[i], "'")) {
				return m.storedOtherwise(r,
					"; if it is a uuid there in several spellings, say so (types: {COLUMN: uuid} "+
						"in cqrsync.yaml, uuid.UUID or column.TextUUID in Go)")
			}
		}
		exact = exact && (kind.Exact() || kind == stored.UUID)
		if kind != stored.Date {
			continue
		}
		for _, r := range rows {
			if text := r.values[i]; strings.ContainsRune(text, ':') &&
				!strings.Contains(text, "00:00:00+00:00") &&
				!strings.HasSuffix(text, "00:00:00'") {
				return m.storedOtherwise(r, "")
			}
		}
	}
	if exact {
		return nil
	}
	keys := make([]string, len(rows))
	for i, r := range rows {
		keys[i] = r.key(len(m.table.PKs))
	}
	var found int
	err = tx.NewRaw("SELECT count(*) FROM ? WHERE ?", m.table.SQLName,
		bun.Safe(keyIn(tx, m.table.PKs, keys))).Scan(ctx, &found)
	if err == nil && found < len(rows) {
		err = m.storedOtherwise(rows[0], "")
	}
	return err
}

// storedOtherwise blames one row; where there are several, they are tried one by one next.
func (m *mirror) storedOtherwise(r *row, or string) error {
	return &codeError{Permanent(fmt.Errorf("key %s: a column of table %s stores it as another "+
		"one: give the key the type that it has on the master%s",
		r.key(len(m.table.PKs)), m.table.Name, or))}
}

// keyIn is the condition that selects rows by their keys, as SQL.
func keyIn(db bun.IDB, key []*schema.Field, keys []string) string {
	names, list := columns("", key), strings.Join(keys, ", ")
	if len(key) > 1 {
		names = "(" + names + ")"
		if db.Dialect().Name() == dialect.SQLite {
			list = "VALUES " + list
		}
	}
	return names + " IN (" + list + ")"
}
