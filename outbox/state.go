package outbox

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// The flush reads every changed row after the lock, which is right whatever happened to it. Where the transaction
// itself has just written the whole row, and nothing can have changed what it wrote, the read can be saved, and with
// it two of three round trips. This file says when that is certain. When in doubt, the flush reads.

// known is the state of a row that needs no read: the statement's own.
func (m *model) known(row reflect.Value) json.RawMessage {
	state, err := encodeRow(m.table, m.columns, row, nil)
	if err != nil {
		return nil // the flush meets the same error and reports it with the key
	}
	return state
}

// writesWholeRows says that a statement is to the letter what bun writes for all columns of its rows: no expression,
// no column left out, no condition, no conflict clause.
func (m *model) writesWholeRows(event *bun.QueryEvent) bool {
	if !m.isRowAlone() || event.DB.Dialect().Name() != dialect.PG { // the only one that PlainColumns knows
		return false
	}
	rows := event.Model.Value()
	var canonical schema.QueryAppender
	switch event.IQuery.(type) {
	case *bun.InsertQuery:
		canonical = event.DB.NewInsert().Model(rows)
	case *bun.UpdateQuery:
		canonical = event.DB.NewUpdate().Model(rows).WherePK()
		if reflect.Indirect(reflect.ValueOf(rows)).Kind() == reflect.Slice {
			canonical = event.DB.NewUpdate().Model(rows).Bulk()
		}
	default:
		return false
	}
	text, err := canonical.AppendQuery(event.DB.QueryGen(), make([]byte, 0, len(event.Query)))
	return err == nil && string(text) == event.Query
}

// isRowAlone says that a message is made of nothing but the row.
func (m *model) isRowAlone() bool {
	return m.serialize == nil && m.filter == nil && m.ttl == 0 && !m.silent && len(m.relations)+len(m.tracked) == 0
}

// plainFor is how long the catalog's word is taken: a trigger that somebody adds is noticed after that.
const plainFor = time.Minute

// isPlain says that what is written into the model's table is what is read from it. It asks the catalog once in a while.
func (m *model) isPlain(ctx context.Context, b *Box, tx bun.IDB) (bool, error) {
	if p := m.plain.Load(); p != nil && time.Since(p.asked) < plainFor {
		return p.yes, nil
	}
	types, err := b.store.PlainColumns(ctx, tx, string(m.table.SQLName))
	if err != nil {
		return false, err
	}
	p := &plain{asked: time.Now(), yes: len(types) > 0}
	for _, field := range m.table.Fields {
		p.yes = p.yes && exactly(field, types[field.Name]) && !field.SkipUpdate()
	}
	m.plain.Store(p)
	return p.yes, nil
}

type plain struct {
	asked time.Time
	yes   bool
}

// exactly says that a column of the SQL type returns just what the field wrote. A numeric rounds, a char pads, a jsonb
// rewrites: those are read.
func exactly(field *schema.Field, sqlType string) bool {
	switch field.IndirectType {
	case reflect.TypeFor[time.Time]():
		return sqlType == "timestamp with time zone" // both sides cut to microseconds
	case reflect.TypeFor[[]byte]():
		return sqlType == "bytea"
	}
	if field.IndirectType.PkgPath() != "" {
		return false // a type with its own idea of its value
	}
	switch field.IndirectType.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return sqlType == "bigint" || sqlType == "integer" || sqlType == "smallint"
	case reflect.String:
		return sqlType == "text" || sqlType == "character varying"
	case reflect.Bool:
		return sqlType == "boolean"
	case reflect.Float64:
		return sqlType == "double precision"
	}
	return false
}
