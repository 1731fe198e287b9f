package outbox

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/stored"
)

// record is a row as the database holds it. Its Go value alone cannot tell a NULL from a zero.
type record struct {
	reflect.Value // invalid if there is no row

	// nil where nobody has looked: then bun's rule for writing says what is NULL
	nulls   stored.Nulls
	below   relatedNulls
	outside bool // the model's condition does not hold: nothing but its key was read
}

// relatedNulls are the NULLs of rows of several tables, by the rows' primary keys.
type relatedNulls map[*schema.Table]map[string]stored.Nulls

// of is a row with what is known of it.
func (n relatedNulls) of(table *schema.Table, row reflect.Value) record {
	return record{Value: row, nulls: n[table][identityOf(table, row)], below: n}
}

// identityOf is the same for two rows of equal primary key that one driver has read.
func identityOf(table *schema.Table, row reflect.Value) string {
	var b strings.Builder
	for _, pk := range table.PKs {
		fmt.Fprintf(&b, "%v\x00", reflect.Indirect(pk.Value(row)))
	}
	return b.String()
}

// scanWhole reads the model's rows with its relations.
//
// Where there are relations bun has to do it, and it does not tell what is NULL: then the columns
// of all tables that hold a zero value are read once more, one query per table.
//
// most is how many bytes are read at once, 0 for all; cut says that rows were left. Of related rows
// nobody knows beforehand: those are all read.
func (m *model) scanWhole(
	ctx context.Context, tx bun.IDB, narrow, lock func(*bun.SelectQuery) *bun.SelectQuery, most int,
) (records []record, cut bool, err error) {
	rows := stored.Of(m.table)
	query := lock(narrow(tx.NewSelect().Model(rows.Model())))
	if len(m.relations) == 0 {
		rows.AtMost(most)
		records, err = scan(ctx, rows.Whole(query), rows)
		return records, rows.Cut(), err
	}
	if err := m.withRelations(query, lock).Scan(ctx); err != nil {
		return nil, false, err
	}
	doubts := doubts{}
	groups := groupRelations(m.relations)
	for i := range rows.Len() {
		doubts.add(m.table, rows.Row(i), groups)
	}
	nulls, err := doubts.settle(ctx, tx, lock)
	if err != nil {
		return nil, false, err
	}
	records = make([]record, rows.Len())
	for i := range records {
		records[i] = nulls.of(m.table, rows.Row(i))
	}
	return records, false, nil
}

// scan runs a query whose model is that of rows.
func scan(ctx context.Context, query *bun.SelectQuery, rows *stored.Rows) ([]record, error) {
	if err := query.Scan(ctx, rows); err != nil {
		return nil, named(rows.Table(), err)
	}
	records := make([]record, rows.Len())
	for i := range records {
		records[i] = record{Value: rows.Row(i), nulls: rows.Nulls(i)}
	}
	return records, nil
}

// doubts are the rows that bun has read, by table and primary key.
type doubts map[*schema.Table]*doubtful

type doubtful struct {
	rows    map[string]reflect.Value
	columns map[*schema.Field]bool // those that hold a zero value in one of the rows
}

// add takes in a row and those below it.
func (d doubts) add(table *schema.Table, row reflect.Value, relations map[string][]string) {
	t := d[table]
	if t == nil {
		t = &doubtful{rows: map[string]reflect.Value{}, columns: map[*schema.Field]bool{}}
		d[table] = t
	}
	t.rows[identityOf(table, row)] = row
	for _, field := range table.Fields {
		if !t.columns[field] && mayBeNull(field, row) {
			t.columns[field] = true
		}
	}
	for name, nested := range relations {
		relation := table.Relations[name]
		groups := groupRelations(nested)
		value := reflect.Indirect(relation.Field.Value(row))
		switch {
		case !value.IsValid():
		case value.Kind() != reflect.Slice:
			d.add(relation.JoinTable, value, groups)
		default:
			for i := range value.Len() {
				if element := reflect.Indirect(value.Index(i)); element.IsValid() {
					d.add(relation.JoinTable, element, groups)
				}
			}
		}
	}
}

// mayBeNull says that the field of a row that bun has read holds what NULL is read as, and
// something else, too.
func mayBeNull(field *schema.Field, row reflect.Value) bool {
	if field.IsPK {
		return false
	}
	value := field.Value(row)
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		return false // nil is NULL, and nothing else is
	}
	if value.Type().PkgPath() == "database/sql" { // sql.NullString and its kind say it themselves
		return false
	}
	return value.IsZero() || field.NullZero && field.HasZeroValue(row)
}

// settle asks the database.
func (d doubts) settle(
	ctx context.Context, tx bun.IDB, lock func(*bun.SelectQuery) *bun.SelectQuery,
) (relatedNulls, error) {
	nulls := make(relatedNulls, len(d))
	byName := func(a, b *schema.Table) int { return cmp.Compare(a.Name, b.Name) }
	for _, table := range slices.SortedFunc(maps.Keys(d), byName) {
		known := make(map[string]stored.Nulls, len(d[table].rows))
		nulls[table] = known
		if len(table.PKs) == 0 { // Register refuses those for which it matters
			continue
		}
		identities := slices.Sorted(maps.Keys(d[table].rows))
		if len(d[table].columns) == 0 {
			for _, identity := range identities {
				known[identity] = stored.Nulls{}
			}
			continue
		}
		for chunk := range slices.Chunk(identities, flushBatch) {
			if err := d[table].ask(ctx, tx, table, chunk, lock, known); err != nil {
				return nil, fmt.Errorf("read the NULLs of %s: %w", table.Name, err)
			}
		}
	}
	return nulls, nil
}

func (d *doubtful) ask(
	ctx context.Context, tx bun.IDB, table *schema.Table, identities []string,
	lock func(*bun.SelectQuery) *bun.SelectQuery, known map[string]stored.Nulls,
) error {
	keys := make([]bun.TupleValues, len(identities))
	for i, identity := range identities {
		keys[i] = bun.Tuple(keyValues(table, d.rows[identity]))
	}
	rows := stored.Of(table)
	query := tx.NewSelect().Model(rows.Model()).Where("(?) IN (?)", keyColumns(table),
		bun.List(keys))
	var zeros []*schema.Field
	for _, field := range table.Fields {
		if field.IsPK || d.columns[field] {
			query = query.ColumnExpr("?.?", table.SQLAlias, field.SQLName)
			zeros = append(zeros, field)
		}
	}
	query = rows.Checked(query, zeros)
	if table.SoftDeleteField != nil {
		query = query.WhereAllWithDeleted()
	}
	if err := lock(query).Scan(ctx, rows); err != nil {
		return named(table, err)
	}
	for i := range rows.Len() {
		known[identityOf(table, rows.Row(i))] = rows.Nulls(i)
	}
	return nil
}
