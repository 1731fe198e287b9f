package replica

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// mirror writes the rows of one model. It writes SQL of its own and not bun's model queries, because those would store
// another value than the master's: the default for a zero value (nullzero), a zero for null; and would run hooks.
type mirror struct {
	*binding
	conflict bun.Safe // ON CONFLICT (primary key) DO
}

func newMirror(b *binding) (*mirror, error) {
	if len(b.table.PKs) == 0 {
		return nil, errors.New("the struct has no primary key: tag its field with `bun:\",pk\"`")
	}
	for _, f := range b.table.Fields {
		if f.Append == nil {
			return nil, fmt.Errorf("column %q: bun cannot write a %s", f.Name, f.StructField.Type)
		}
	}
	return &mirror{b, bun.Safe("ON CONFLICT (" + columns("", b.table.PKs) + ") DO ")}, nil
}

// check fails where the table or a column is missing.
func (m *mirror) check(ctx context.Context, db bun.IDB) error {
	_, err := db.ExecContext(ctx, "SELECT ? FROM ? AS r WHERE 1 = 0",
		bun.Safe(columns("r.", m.table.Fields)), m.table.SQLName)
	if err != nil {
		return fmt.Errorf("table %s of model %q: %w", m.table.Name, m.model, err)
	}
	return nil
}

func (m *mirror) apply(ctx context.Context, tx bun.Tx, msg *envelope.Message) error {
	fields, err := fieldsOf(msg)
	if err != nil {
		return Permanent(err)
	}
	row := reflect.New(m.table.Type).Elem()
	if msg.Signal == envelope.Delete {
		if err := m.decodeKey(row, m.table.PKs, fields); err != nil {
			return Permanent(err)
		}
		return m.delete(ctx, tx, row)
	}
	key, data, err := m.cells(row, fields)
	if err != nil {
		return Permanent(err)
	}
	return m.save(ctx, tx, key, data)
}

func (m *mirror) delete(ctx context.Context, tx bun.Tx, row reflect.Value) error {
	key := make([]cell, len(m.table.PKs))
	for i, f := range m.table.PKs {
		key[i] = cell{f, f.Value(row)}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE ?", m.table.SQLName, assignments(key, " AND "))
	return err
}

func (m *mirror) save(ctx context.Context, tx bun.Tx, key, data []cell) error {
	if tx.Dialect().Name() == dialect.MySQL {
		return m.saveInSteps(ctx, tx, key, data)
	}
	// A row that the message has only a part of must be updated where it is there: an upsert of the part fails on
	// every NOT NULL column outside it, before it sees that the row exists.
	if len(data) > 0 && len(data) < len(m.table.DataFields) {
		result, err := tx.ExecContext(ctx, "UPDATE ? SET ? WHERE ?",
			m.table.SQLName, assignments(data, ", "), assignments(key, " AND "))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
	}
	action := bun.Safe("NOTHING")
	if len(data) > 0 {
		action = "UPDATE SET " + excluded(data)
	}
	row := slices.Concat(key, data)
	_, err := tx.ExecContext(ctx, "INSERT INTO ? (?) VALUES (?) ? ?",
		m.table.SQLName, names(row), bun.List(row), m.conflict, action)
	return err
}

// saveInSteps is save where an upsert cannot be told which key it may meet: ON DUPLICATE KEY UPDATE would change another
// row that holds a unique value of this one. The look is a locking read, because a plain one would show an old snapshot,
// and because the number of rows that an UPDATE reports depends on how the connection was opened.
func (m *mirror) saveInSteps(ctx context.Context, tx bun.Tx, key, data []cell) error {
	var found []int
	err := tx.NewRaw("SELECT 1 FROM ? WHERE ? FOR UPDATE", m.table.SQLName, assignments(key, " AND ")).Scan(ctx, &found)
	if err != nil {
		return err
	}
	switch {
	case len(found) == 0:
		row := slices.Concat(key, data)
		_, err = tx.ExecContext(ctx, "INSERT INTO ? (?) VALUES (?)", m.table.SQLName, names(row), bun.List(row))
	case len(data) > 0:
		_, err = tx.ExecContext(ctx, "UPDATE ? SET ? WHERE ?",
			m.table.SQLName, assignments(data, ", "), assignments(key, " AND "))
	}
	return err
}

// cell is one column of one row: nil for NULL, the text of a JSON column, or a reflect.Value that bun writes as a value
// of the field. What bun makes of zero values in a model it does not make of these.
type cell struct {
	field *schema.Field
	value any
}

// AppendQuery makes a cell an argument of a bun query.
func (c cell) AppendQuery(gen schema.QueryGen, b []byte) ([]byte, error) {
	if v, ok := c.value.(reflect.Value); ok {
		return c.field.Append(gen, b, v), nil
	}
	return gen.Append(b, c.value), nil
}

// cells reads the columns that the message carries. row lends its fields to decode into.
func (m *mirror) cells(row reflect.Value, fields map[string]json.RawMessage) (key, data []cell, err error) {
	for _, f := range m.table.Fields {
		name := m.fieldName(f.Name)
		raw, ok := fields[name]
		switch {
		case f.IsPK && (!ok || isNull(raw, f.StructField.Type)):
			return nil, nil, fmt.Errorf("field %q with the primary key is missing", name)
		case !ok:
			continue
		}
		value, err := m.value(f, f.Value(row), raw)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("field %q: %w", name, err)
		case f.IsPK:
			key = append(key, cell{f, value})
		default:
			data = append(data, cell{f, value})
		}
	}
	return key, data, nil
}

// value is what the cell of a column holds.
func (m *mirror) value(f *schema.Field, dst reflect.Value, raw json.RawMessage) (any, error) {
	if isNull(raw, dst.Type()) {
		return nil, nil
	}
	if !isJSONColumn(f) {
		return dst, m.shapes.decode(dst, raw)
	}
	if kind := f.IndirectType.Kind(); kind != reflect.String && elemType(f.IndirectType).Kind() != reflect.Uint8 {
		// Whoever reads the row unmarshals into this type: better to refuse here.
		if err := json.Unmarshal(raw, reflect.New(f.StructField.Type).Interface()); err != nil {
			return nil, err
		}
	}
	return string(raw), nil
}

// isJSONColumn says that the column holds JSON: it gets the text as the master sent it, nothing lost or reformatted.
func isJSONColumn(f *schema.Field) bool {
	typ := f.IndirectType
	if typ == reflect.TypeFor[json.RawMessage]() {
		return true
	}
	for _, other := range []string{"array", "hstore", "msgpack", "multirange"} {
		if f.Tag.HasOption(other) {
			return false
		}
	}
	isValuer := reflect.PointerTo(typ).Implements(reflect.TypeFor[driver.Valuer]())
	if isValuer || decodesItself(typ) || strings.HasSuffix(f.UserSQLType, "[]") {
		return false
	}
	switch typ.Kind() {
	case reflect.Map, reflect.Struct:
		return true
	case reflect.Slice, reflect.Array:
		return typ.Elem().Kind() != reflect.Uint8
	default:
		sqlType := strings.ToUpper(f.UserSQLType)
		return sqlType == "JSON" || sqlType == "JSONB"
	}
}

// The pieces of a statement, for use as an argument of a bun query.

func columns(prefix string, fields []*schema.Field) string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = prefix + string(f.SQLName)
	}
	return strings.Join(list, ", ")
}

func names(row []cell) bun.Safe {
	list := make([]*schema.Field, len(row))
	for i, c := range row {
		list[i] = c.field
	}
	return bun.Safe(columns("", list))
}

func excluded(row []cell) bun.Safe {
	list := make([]string, len(row))
	for i, c := range row {
		list[i] = string(c.field.SQLName) + " = excluded." + string(c.field.SQLName)
	}
	return bun.Safe(strings.Join(list, ", "))
}

func assignments(row []cell, separator string) schema.QueryAppender {
	args := make([]any, 0, 2*len(row))
	for _, c := range row {
		args = append(args, c.field.SQLName, c)
	}
	return schema.SafeQuery("? = ?"+strings.Repeat(separator+"? = ?", len(row)-1), args)
}
