package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// Flag has what the other models have not: columns that are nullzero with a default, pointers, and a key that the database
// finds by other spellings.
type Flag struct {
	bun.BaseModel `bun:"table:flags"`
	outbox.Tracked

	Code  string `bun:",pk"`
	Rank  int64  `bun:",nullzero,default:7"`
	Label string `bun:",nullzero"`
	Note  *string
	Count *int64
}

// The property: whatever statements a transaction is made of, the outbox holds afterwards what the tables say. The seed of
// a failure is printed; CQRSYNC_TEST_SEED repeats it, CQRSYNC_TEST_TRANSACTIONS runs that many instead of three seconds.
func TestTheOutboxSaysWhatTheTablesSay(t *testing.T) {
	each(t, func(f fixture) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("CQRSYNC_TEST_SEED"); text != "" {
			var err error
			seed, err = strconv.ParseUint(text, 10, 64)
			require.NoError(f, err)
		}
		count, _ := strconv.Atoi(os.Getenv("CQRSYNC_TEST_TRANSACTIONS"))
		p := newProperty(f, seed)
		deadline := time.Now().Add(3 * time.Second)
		for i := 0; i < count || count == 0 && time.Now().Before(deadline); i++ {
			p.transaction()
		}
		f.Logf("seed %d: %d committed, %d with messages, %d messages, %d refused, %d failed",
			seed, p.committed, p.sending, p.messages, p.refused, p.failed)
		require.Greater(f, p.sending*3, p.refused+p.failed, "too few transactions were of use")
	})
}

// property makes transactions of one seed and judges them.
type property struct {
	fixture
	*rand.Rand

	seed   uint64
	tables []propertyTable
	kept   map[string][]any // structs that were given to statements, to be given again
	last   map[string]int64 // revisions
	steps  []string         // of the transaction

	committed, sending, messages, refused, failed int
}

// propertyTable is what the generator and the oracle must know of a registered model.
type propertyTable struct {
	model, table string
	keys         []string
	columns      []string // without the keys
	live         string   // a condition for rows that replicas have
	row          func(p *property) any
}

func newProperty(f fixture, seed uint64) *property {
	f.run(map[dialect.Name]string{
		dialect.PG:     "CREATE TABLE flags (code char(6) PRIMARY KEY, rank bigint DEFAULT 7, label varchar(9) DEFAULT '', note text, count bigint)",
		dialect.MySQL:  "CREATE TABLE flags (code varchar(6) COLLATE utf8mb4_general_ci PRIMARY KEY, `rank` bigint DEFAULT 7, label varchar(9) DEFAULT '', note text, count bigint)",
		dialect.SQLite: "CREATE TABLE flags (code text COLLATE NOCASE PRIMARY KEY, rank bigint DEFAULT 7, label text DEFAULT '', note text, count bigint)",
	})
	require.NoError(f, outbox.Register[Flag](f.box, "flag"))
	p := &property{fixture: f, Rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, kept: map[string][]any{}, last: map[string]int64{}}
	p.tables = []propertyTable{
		{"order", "orders", []string{"id"}, []string{"number", "status"}, "1 = 1", func(p *property) any {
			return &Order{ID: p.id(), Number: p.word(12), Status: p.word(3)}
		}},
		{"seat", "seats", []string{"row", "place"}, []string{"guest"}, "1 = 1", func(p *property) any {
			return &Seat{Row: p.Int64N(3), Place: []string{"", "a", `b"`, "c,('"}[p.IntN(4)], Guest: p.word(4)}
		}},
		{"flag", "flags", []string{"code"}, []string{"rank", "label", "note", "count"}, "1 = 1", func(p *property) any {
			row := &Flag{Code: p.spelled(), Rank: p.Int64N(3), Label: p.word(3)}
			if p.one(2) {
				row.Note = new(p.word(3))
			}
			if p.one(2) {
				row.Count = new(p.Int64N(2))
			}
			return row
		}},
		{"file", "files", []string{"id"}, []string{"name"}, "deleted_at IS NULL", func(p *property) any {
			row := &File{ID: 1 + p.Int64N(6), Name: p.word(4)}
			if p.one(6) {
				row.DeletedAt = time.Now()
			}
			return row
		}},
	}
	return p
}

func (p *property) one(in int) bool { return p.IntN(in) == 0 }

func (p *property) word(of int) string {
	return []string{"", "a", "b", "it's", `q"\`, "c,(", "é", "x y", "$1", "?", "-- z", "/* w"}[p.IntN(of)]
}

func (p *property) id() int64 {
	if p.one(2) {
		return 0
	}
	return 1 + p.Int64N(12)
}

func (p *property) spelled() string {
	code := []string{"ab", "cd", "ef", "gh"}[p.IntN(4)]
	if p.db.Dialect().Name() == dialect.PG {
		return code + strings.Repeat(" ", p.IntN(3))
	}
	if p.one(2) {
		return strings.ToUpper(code)
	}
	return code
}

// transaction runs a random transaction and judges what the outbox holds then.
func (p *property) transaction() {
	p.steps = nil
	before := p.snapshot()
	err := p.inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := p.statements(ctx, tx, 1+p.IntN(5), 0); err != nil {
			return err
		}
		if p.one(12) {
			return errGivenUp
		}
		return nil
	})
	after, messages := p.snapshot(), p.take()
	said := fmt.Sprintf("CQRSYNC_TEST_SEED=%d, the transaction was:\n%s\n→ %v", p.seed, strings.Join(p.steps, "\n"), err)
	if err != nil {
		p.count(err)
		require.Equal(p, before, after, "%s", said)
		require.Empty(p, messages, "%s", said)
		return
	}
	p.committed++
	p.judge(before, after, messages, said)
}

var errGivenUp = errors.New("given up")

func (p *property) count(err error) {
	var refused *outbox.RefusedError
	if errors.As(err, &refused) {
		p.refused++
	} else {
		p.failed++
	}
}

// judge is the oracle.
func (p *property) judge(before, after map[string]string, messages []message, said string) {
	sent := map[string]message{}
	for _, m := range messages {
		id := m.Model + " " + m.Key
		require.NotContains(p, sent, id, "two messages: %s", said)
		sent[id] = m
		row, exists := after[id]
		if m.Signal == "SAVE" {
			require.True(p, exists, "SAVE of %s, which is not there: %s", id, said)
			require.Equal(p, row, p.dataOf(m), "%s: %s", id, said)
		} else {
			require.Equal(p, "DELETE", m.Signal)
			require.False(p, exists, "DELETE of %s, which is there: %s", id, said)
		}
		if last, known := p.last[id]; known {
			require.Equal(p, last+1, m.Revision, "revision of %s: %s", id, said)
		} else {
			require.LessOrEqual(p, m.Revision, int64(1), "first revision of %s: %s", id, said)
		}
		p.last[id] = m.Revision
	}
	for id, row := range before {
		if after[id] != row {
			require.Contains(p, sent, id, "%s changed: %s", id, said)
		}
	}
	for id := range after {
		if _, was := before[id]; !was {
			require.Contains(p, sent, id, "%s is new: %s", id, said)
		}
	}
	p.messages += len(messages)
	if len(messages) > 0 {
		p.sending++
	}
}

// snapshot is every row that replicas have, by model and key, as the database says.
func (p *property) snapshot() map[string]string {
	all := map[string]string{}
	lines := map[string][]string{}
	for _, values := range p.read("SELECT order_id, id, sku, quantity FROM " + string(p.db.QueryGen().AppendIdent(nil, "lines")) + " ORDER BY id") {
		lines[values[0]] = append(lines[values[0]], strings.Join(values, "|"))
	}
	for _, t := range p.tables {
		columns := append(append([]string{}, t.keys...), t.columns...)
		for i, c := range columns {
			columns[i] = string(p.db.QueryGen().AppendIdent(nil, c))
		}
		for _, values := range p.read("SELECT " + strings.Join(columns, ", ") + " FROM " + t.table + " WHERE " + t.live) {
			key := values[0]
			if len(t.keys) == 2 {
				row, err := strconv.ParseInt(values[0], 10, 64)
				require.NoError(p, err)
				text, err := json.Marshal([]any{row, values[1]})
				require.NoError(p, err)
				key = string(text)
			}
			text := strings.Join(values, "|")
			if t.model == "order" {
				text += "[" + strings.Join(lines[key], ";") + "]"
			}
			all[t.model+" "+key] = text
		}
	}
	return all
}

func (p *property) read(query string) [][]string {
	rows, err := p.db.DB.QueryContext(p.Context(), query)
	require.NoError(p, err)
	defer func() { require.NoError(p, rows.Close()) }()
	columns, err := rows.Columns()
	require.NoError(p, err)
	var all [][]string
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		require.NoError(p, rows.Scan(into...))
		texts := make([]string, len(columns))
		for i, v := range values {
			if b, isBytes := v.([]byte); isBytes {
				v = string(b)
			}
			texts[i] = fmt.Sprint(v)
		}
		all = append(all, texts)
	}
	require.NoError(p, rows.Err())
	return all
}

// dataOf is a message's data as snapshot has a row.
func (p *property) dataOf(m message) string {
	decoder := json.NewDecoder(strings.NewReader(string(m.Data)))
	decoder.UseNumber()
	var data map[string]any
	require.NoError(p, decoder.Decode(&data))
	text := func(data map[string]any, columns ...string) string {
		values := make([]string, len(columns))
		for i, c := range columns {
			value, found := data[c]
			require.True(p, found, "%s is missing in %s", c, m.Data)
			values[i] = fmt.Sprint(value)
		}
		return strings.Join(values, "|")
	}
	for _, t := range p.tables {
		if t.model != m.Model {
			continue
		}
		row := text(data, append(append([]string{}, t.keys...), t.columns...)...)
		if m.Model == "order" {
			var lines []string
			list, _ := data["lines"].([]any)
			for _, line := range list {
				lines = append(lines, text(line.(map[string]any), "order_id", "id", "sku", "quantity"))
			}
			row += "[" + strings.Join(lines, ";") + "]"
		}
		return row
	}
	return "no model " + m.Model
}

// statements runs random statements; errors of some are ignored, as applications do. PostgreSQL lets them only behind a
// savepoint.
func (p *property) statements(ctx context.Context, tx bun.Tx, n, depth int) error {
	for range n {
		kind := p.IntN(8)
		switch {
		case kind == 0 && depth < 3:
			undo := p.one(2)
			p.step("tx.RunInTx, undone: %v {", undo)
			err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				err := p.statements(ctx, tx, 1+p.IntN(3), depth+1)
				if err == nil && undo {
					err = errGivenUp
				}
				return err
			})
			p.step("} %v", err)
			if p.isRefused(err) {
				return err
			}
		case kind == 1 && depth < 3:
			if err := p.savepoint(ctx, tx, depth); err != nil {
				return err
			}
		default:
			if err := p.shielded(ctx, tx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *property) isRefused(err error) bool {
	var refused *outbox.RefusedError
	return errors.As(err, &refused)
}

func (p *property) step(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

func (p *property) raw(ctx context.Context, tx bun.Tx, text string) error {
	p.step("%s", text)
	return exec(tx.ExecContext(ctx, text))
}

// savepoint runs statements behind a raw one.
func (p *property) savepoint(ctx context.Context, tx bun.Tx, depth int) error {
	name := []string{"a", "b"}[p.IntN(2)]
	end := []string{"ROLLBACK TO " + name, "/* x */ rollback to savepoint " + name, "RELEASE SAVEPOINT " + name, ""}[p.IntN(4)]
	if err := p.raw(ctx, tx, "SAVEPOINT "+name); err != nil {
		return err
	}
	if err := p.statements(ctx, tx, 1+p.IntN(2), depth+3); err != nil || end == "" { // no savepoint inside has the name
		return err
	}
	return p.raw(ctx, tx, end)
}

// shielded runs one statement whose error is ignored, unless it is a refusal.
func (p *property) shielded(ctx context.Context, tx bun.Tx) error {
	postgres := p.db.Dialect().Name() == dialect.PG
	if postgres {
		if err := exec(tx.ExecContext(ctx, "SAVEPOINT shield")); err != nil {
			return err
		}
	}
	err := p.statement(ctx, tx)
	if err == nil || p.isRefused(err) {
		return err
	}
	p.step("  failed: %v", err)
	if postgres {
		return exec(tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT shield"))
	}
	return nil
}

func (p *property) statement(ctx context.Context, tx bun.Tx) error {
	t := p.tables[p.IntN(len(p.tables))]
	switch p.IntN(11) {
	case 0, 1, 2:
		return p.insert(ctx, tx, t)
	case 3, 4:
		return p.update(ctx, tx, t)
	case 5:
		return p.delete(ctx, tx, t)
	case 6, 7:
		return p.line(ctx, tx)
	case 8:
		return p.explicit(ctx, tx, t)
	case 9:
		return p.bulk(ctx, tx)
	}
	id := 1 + p.Int64N(12)
	switch p.IntN(3) {
	case 0:
		p.step("Touch order %d", id)
		return outbox.Touch[Order](ctx, tx, id)
	case 1:
		code := p.spelled()
		p.step("Touch flag %s", code)
		return outbox.Touch[Flag](ctx, tx, code)
	}
	p.step("Touch file %d", id)
	return outbox.Touch[File](ctx, tx, id)
}

// rows makes what a statement is given: a struct, a slice of them or of pointers, new or used before.
func (p *property) rows(t propertyTable) any {
	one := func() any {
		if kept := p.kept[t.model]; len(kept) > 0 && p.one(4) {
			return kept[p.IntN(len(kept))]
		}
		row := t.row(p)
		p.kept[t.model] = append(p.kept[t.model], row)
		if len(p.kept[t.model]) > 5 {
			p.kept[t.model] = p.kept[t.model][1:]
		}
		return row
	}
	if p.one(2) {
		return one()
	}
	typ := reflect.TypeOf(t.row(p))
	pointers := p.one(2)
	if !pointers {
		typ = typ.Elem()
	}
	slice := reflect.New(reflect.SliceOf(typ))
	for range 1 + p.IntN(3) {
		row := reflect.ValueOf(one())
		if !pointers {
			row = row.Elem()
		}
		slice.Elem().Set(reflect.Append(slice.Elem(), row))
	}
	return slice.Interface()
}

// a string of RETURNING, or none.
func (p *property) returning(t propertyTable) (string, bool) {
	choices := []string{"NULL", "", "*", strings.Join(t.keys, ", "), t.columns[0], "1 AS " + t.keys[0]}
	if t.table == "seats" && p.db.Dialect().Name() == dialect.MySQL {
		return "", false // row is a word of its own there
	}
	return choices[p.IntN(len(choices))], p.one(3)
}

func (p *property) insert(ctx context.Context, tx bun.Tx, t propertyTable) error {
	q := tx.NewInsert().Model(p.rows(t))
	mysql := p.db.Dialect().Name() == dialect.MySQL
	switch kind := p.IntN(9); {
	case kind == 0 && t.model == "order":
		q = q.ExcludeColumn("id")
	case kind == 1 && t.model == "order":
		q = q.Value("id", strconv.Itoa(20+p.IntN(9)))
	case kind == 2:
		q = q.ExcludeColumn(t.columns[0])
	}
	switch {
	case p.one(6):
		q = q.Ignore()
	case !mysql && p.one(6):
		q = q.On("CONFLICT DO NOTHING")
	case !mysql && p.one(4):
		target := make([]string, len(t.keys))
		for i, key := range t.keys {
			target[i] = string(p.db.QueryGen().AppendIdent(nil, key))
		}
		q = q.On("CONFLICT ("+strings.Join(target, ", ")+") DO UPDATE").Set("? = EXCLUDED.?", bun.Ident(t.columns[0]), bun.Ident(t.columns[0]))
	}
	returning, returns := p.returning(t)
	if returns {
		q = q.Returning(returning)
	}
	var id, other any
	switch p.IntN(8) {
	case 0:
		p.step("%s; Scan(&v)", q)
		return q.Scan(ctx, &id)
	case 1:
		p.step("%s; Scan(&v, &w)", q)
		return q.Scan(ctx, &id, &other)
	case 2:
		p.step("%s; Exec(&v)", q)
		return exec(q.Exec(ctx, &id))
	case 3:
		if t.model != "order" || returns { // bun panics where it scans several columns into one
			break
		}
		var ids []int64
		q = q.ExcludeColumn("id").Returning("id")
		p.step("%s; Exec(&ids)", q)
		return exec(q.Exec(ctx, &ids))
	}
	p.step("%s", q)
	return exec(q.Exec(ctx))
}

func (p *property) update(ctx context.Context, tx bun.Tx, t propertyTable) error {
	rows := p.rows(t)
	slice := reflect.ValueOf(rows).Elem().Kind() == reflect.Slice
	mysql := p.db.Dialect().Name() == dialect.MySQL
	q := tx.NewUpdate().Model(rows)
	switch {
	case slice && p.one(2) && !mysql && t.model != "file":
		q = q.Bulk()
	case slice || p.one(3):
		q = q.Set("? = ?", bun.Ident(t.columns[0]), p.IntN(3)).WherePK()
	default:
		q = q.WherePK()
		switch p.IntN(4) {
		case 0:
			q = q.OmitZero().Column(t.columns...)
		case 1:
			q = q.Column(t.columns[p.IntN(len(t.columns))])
		case 2:
			if t.model != "file" {
				q = q.Value(t.columns[0], "?", p.IntN(3))
			}
		}
	}
	if p.one(4) {
		q = q.Where("? <> ?", bun.Ident(t.columns[0]), 1)
	}
	if returning, yes := p.returning(t); yes && !mysql {
		q = q.Returning(returning)
		if p.one(2) {
			var v any
			p.step("%s; Scan(&v)", q)
			return q.Scan(ctx, &v)
		}
	}
	p.step("%s", q)
	return exec(q.Exec(ctx))
}

func (p *property) delete(ctx context.Context, tx bun.Tx, t propertyTable) error {
	q := tx.NewDelete().Model(p.rows(t)).WherePK()
	if p.one(4) {
		q = q.Where("? <> ?", bun.Ident(t.columns[0]), "a")
	}
	if t.model == "file" && p.one(2) {
		q = q.ForceDelete()
	}
	if returning, yes := p.returning(t); yes {
		q = q.Returning(returning)
	}
	p.step("%s", q)
	return exec(q.Exec(ctx))
}

// line writes rows of the relation.
func (p *property) line(ctx context.Context, tx bun.Tx) error {
	row := func() *Line {
		return &Line{ID: p.id(), OrderID: 1 + p.Int64N(8), SKU: p.word(4), Quantity: p.IntN(3)}
	}
	var rows any = row()
	if p.one(3) {
		rows = &[]*Line{row(), row()}
	}
	_, single := rows.(*Line)
	switch kind := p.IntN(5); {
	case kind == 0 && single:
		q := tx.NewUpdate().Model(rows).WherePK()
		p.step("%s", q)
		return exec(q.Exec(ctx))
	case kind == 1:
		q := tx.NewDelete().Model(rows).WherePK()
		p.step("%s", q)
		return exec(q.Exec(ctx))
	case kind == 2:
		order := 1 + p.Int64N(8)
		q := tx.NewDelete().Model((*Line)(nil)).Where("order_id = ?", order)
		p.step("%s; Touch", q)
		return errors.Join(exec(q.Exec(ctx)), outbox.Touch[Order](ctx, tx, order))
	case kind == 3:
		q := tx.NewUpdate().Model(rows).Set("quantity = quantity + 1").WherePK()
		p.step("%s", q)
		return exec(q.Exec(ctx))
	}
	q := tx.NewInsert().Model(rows)
	if p.one(3) {
		q = q.Ignore()
	}
	p.step("%s", q)
	return exec(q.Exec(ctx))
}

// explicit writes past the capture, and reports.
func (p *property) explicit(ctx context.Context, tx bun.Tx, t propertyTable) error {
	row := t.row(p)
	if flag, isFlag := row.(*Flag); isFlag { // of a row that is gone, nothing tells how it was spelled
		var stored []Flag
		if err := tx.NewSelect().Model(&stored).Where("code = ?", flag.Code).Scan(ctx); err != nil || len(stored) == 0 {
			return err
		}
		flag.Code = stored[0].Code
	}
	value := reflect.ValueOf(row).Elem()
	var conditions []string
	for _, key := range t.keys {
		field, err := p.db.Table(value.Type()).Field(key)
		require.NoError(p, err)
		conditions = append(conditions, string(field.SQLName)+" = "+string(field.AppendValue(p.db.QueryGen(), nil, value)))
	}
	where := " WHERE " + strings.Join(conditions, " AND ")
	hidden := outbox.Explicit(ctx)
	if value.FieldByName(p.db.Table(value.Type()).PKs[0].GoName).IsZero() && t.model != "seat" {
		return nil
	}
	switch p.IntN(3) {
	case 0:
		text := "DELETE FROM " + t.table + where
		p.step("Explicit %s; Deleted", text)
		return errors.Join(exec(tx.ExecContext(hidden, strings.ReplaceAll(text, "?", `\?`))), p.box.Deleted(ctx, tx, row))
	case 1:
		text := "UPDATE " + t.table + " SET " + string(p.db.QueryGen().AppendIdent(nil, t.columns[0])) + " = '3'" + where
		p.step("Explicit %s; Saved", text)
		return errors.Join(exec(tx.ExecContext(hidden, strings.ReplaceAll(text, "?", `\?`))), p.box.Saved(ctx, tx, row))
	}
	if t.model == "flag" && p.db.Dialect().Name() != dialect.PG { // another spelling of the key
		var stored []Flag
		if err := tx.NewSelect().Model(&stored).Where("code = ?", row.(*Flag).Code).Scan(ctx); err != nil || len(stored) == 0 {
			return err
		}
		renamed := stored[0]
		renamed.Code = strings.ToUpper(renamed.Code[:1]) + renamed.Code[1:]
		p.step("Explicit rename %s to %s; Deleted, Saved", stored[0].Code, renamed.Code)
		_, err := tx.ExecContext(hidden, "UPDATE flags SET code = ? WHERE code = ?", renamed.Code, stored[0].Code)
		return errors.Join(err, p.box.Deleted(ctx, tx, &stored[0]), p.box.Saved(ctx, tx, &renamed))
	}
	return nil
}

func (p *property) bulk(ctx context.Context, tx bun.Tx) error {
	id := 1 + p.Int64N(12)
	var err error
	if p.one(3) {
		p.step("BulkDelete files over %d", id)
		_, err = outbox.BulkDelete[File](ctx, tx, func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("id > ?", id) })
		return err
	}
	p.step("BulkUpdate orders over %d", id)
	_, err = outbox.BulkUpdate[Order](ctx, tx, func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("id > ?", id) },
		func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("status = ?", "bulk") })
	return err
}
