package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// statements runs random statements; errors of some are ignored, as applications do. PostgreSQL
// lets them only behind a savepoint.
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

// rows makes what a statement is given: a struct, a slice of them or of pointers, new or used
// before.
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
