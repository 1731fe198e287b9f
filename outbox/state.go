package outbox

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/master"
)

// The flush reads every changed row after the lock, which is right whatever happened to it. Where
// the transaction itself has just written the whole row, the statement that records the message can
// compare the row with what was written instead, which saves two of three round trips. A row that
// anything else has changed since, seen or unseen, is not equal, and then the flush reads.

// known is the state of a row that needs no read: the statement's own. A nullzero column of an
// INSERT is written as DEFAULT: where that is not NULL, the row is not equal, and is read.
func (m *model) known(gen schema.QueryGen, row reflect.Value) *knownState {
	data, err := m.encode(record{Value: row}, nil)
	if err == nil {
		data, err = envelope.Shelve(data)
	}
	if err != nil {
		return nil // the flush meets the same error and reports it with the key
	}
	return &knownState{data, m.equals(gen, row)}
}

// knownState is a row as a statement wrote it.
type knownState struct {
	data json.RawMessage // instance_data
	row  string          // a condition, in SQL, that the row is so
}

// equals is a condition that a row has the values of its model, byte for byte: a collation may take
// others for equal.
func (m *model) equals(gen schema.QueryGen, row reflect.Value) string {
	var b []byte
	for i, field := range m.table.Fields {
		if i > 0 {
			b = append(b, " AND "...)
		}
		b = append(append(append(b, master.ComparedRow...), '.'), field.SQLName...)
		if field.IndirectType.Kind() == reflect.String {
			b = append(b, ` COLLATE "C"`...)
		}
		start := len(b)
		b = append(b, " = "...)
		if b = field.AppendValue(gen, b, row); string(b[start:]) == " = NULL" {
			b = append(b[:start], " IS NULL"...)
		}
	}
	return string(b)
}

// canonical returns the model of a statement that is to the letter what bun writes for all columns
// of a registered model's rows: no expression, no column left out, no condition, no conflict
// clause, and so nothing to analyse. It is nil for any other statement, and where finding out would
// gain nothing.
func (b *Box) canonical(event *bun.QueryEvent) *model {
	given, isModel := event.Model.(bun.TableModel)
	if !isModel {
		return nil
	}
	rows := reflect.Indirect(reflect.ValueOf(given.Value()))
	m := b.modelOfType(given.Table().Type)
	if m == nil || !rows.IsValid() {
		return nil
	}
	var canonical schema.QueryAppender
	switch event.IQuery.(type) {
	case *bun.InsertQuery:
		if !m.savesRead(event.DB) { // the first words of an INSERT tell enough
			return nil
		}
		canonical = event.DB.NewInsert().Model(given.Value())
	case *bun.UpdateQuery:
		canonical = event.DB.NewUpdate().Model(given.Value()).WherePK()
		if rows.Kind() == reflect.Slice {
			canonical = event.DB.NewUpdate().Model(given.Value()).Bulk()
		}
	default:
		return nil
	}
	text, err := canonical.AppendQuery(event.DB.QueryGen(), make([]byte, 0, len(event.Query)))
	if err != nil || string(text) != event.Query {
		return nil
	}
	return m
}

// captureCanonical is capture for a statement of which canonical returned the model.
func (s *session) captureCanonical(
	ctx context.Context, event *bun.QueryEvent, m *model,
) (*captured, *RefusedError) {
	c := &captured{model: m, verb: "INSERT", whole: m.savesRead(event.DB)}
	if _, update := event.IQuery.(*bun.UpdateQuery); update {
		c.verb = "UPDATE"
	}
	if refused := s.name(ctx, event, c); refused != nil {
		return nil, refused
	}
	name := registeredName(m)
	return s.captureRelated(ctx, event, write{c.verb, name.schema, name.name}, c)
}

// savesRead says that a message is made of nothing but the row, on a database that can tell whether
// a row is what was written (PlainColumns). A row with a time of its deletion is not one of those
// that a SELECT finds.
func (m *model) savesRead(db *bun.DB) bool {
	return m.table.SoftDeleteField == nil && m.serialize == nil && !m.filters() && m.ttl == 0 &&
		!m.silent &&
		!m.everyRevision && len(m.relations)+len(m.tracked) == 0 &&
		db.Dialect().Name() == dialect.PG
}

// plainFor is how long the catalog's word is taken on whether it is worth while to try: the
// recording statement itself compares the rows.
const plainFor = time.Minute

// plainRows says how the recording statement finds the model's rows and compares them with their
// states. It is nil where what is written into the table need not be what is read from it.
func (m *model) plainRows(ctx context.Context, b *Box, tx bun.IDB) (*master.PlainRows, error) {
	if p := m.plain.Load(); p != nil && time.Since(p.asked) < plainFor {
		return p.rows, nil
	}
	types, err := b.catalog.PlainColumns(ctx, tx, string(m.table.SQLName))
	if err != nil {
		return nil, err
	}
	p := &plain{asked: time.Now()}
	yes := len(types) > 0
	for _, field := range m.table.Fields {
		yes = yes && exactly(field, types[field.Name]) && !field.SkipUpdate()
	}
	if yes {
		p.rows = master.NewPlainRows(string(m.table.SQLName), sqlNames(m.table.PKs),
			sqlNames(m.table.Fields), types)
	}
	m.plain.Store(p)
	b.toPrepare.Store(true)
	return p.rows, nil
}

func sqlNames(fields []*schema.Field) []string {
	names := make([]string, len(fields))
	for i, field := range fields {
		names[i] = string(field.SQLName)
	}
	return names
}

type plain struct {
	asked time.Time
	rows  *master.PlainRows
}

// exactly says that a column of the SQL type returns just what the field wrote. A numeric rounds, a
// char pads, a jsonb rewrites: those are read.
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
