package replica

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// save writes rows of different keys, with one statement for all that carry the same columns.
func (m *mirror) save(ctx context.Context, tx bun.Tx, rows []*row) error {
	var sets []*columnSet // in order of appearance, so that a batch tried again does the same
	bySet := map[*columnSet][]*row{}
	for _, r := range rows {
		if bySet[r.columns] == nil {
			sets = append(sets, r.columns)
		}
		bySet[r.columns] = append(bySet[r.columns], r)
	}
	if err := m.refuseForeign(ctx, tx, rows); err != nil {
		return err
	}
	for _, set := range sets {
		if err := m.saveSet(ctx, tx, set, bySet[set]); err != nil {
			return err
		}
	}
	if err := m.checkStored(ctx, tx, rows); err != nil {
		return err
	}
	for _, child := range m.children {
		if err := child.replace(ctx, tx, rows); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) saveSet(ctx context.Context, tx bun.Tx, set *columnSet, rows []*row) error {
	shape, err := m.shapeFor(ctx, tx, set, rows)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(shape.required), func(column string) bool {
		return slices.ContainsFunc(set.fields, func(f *schema.Field) bool {
			return f.Name == column
		})
	})
	if len(missing) == 0 && !shape.otherUnique {
		if err := m.saveTogether(ctx, tx, set, rows, shape); err != nil {
			return err
		}
		return m.keptApart(ctx, tx, rows, shape)
	}
	for _, r := range rows {
		if err := m.saveInSteps(ctx, tx, r, missing, shape); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) saveTogether(
	ctx context.Context, tx bun.Tx, set *columnSet, rows []*row, shape *mirrorShape,
) error {
	if done, err := m.saveArrays(ctx, tx, set, rows, shape); done || err != nil {
		return err
	}
	tuples := make([]string, len(rows))
	for i, r := range rows {
		tuples[i] = r.tuple()
	}
	_, err := m.upsert(ctx, tx, set, "VALUES "+strings.Join(tuples, ", "))
	return err
}

func (m *mirror) upsert(
	ctx context.Context, tx bun.Tx, set *columnSet, rows string,
) (sql.Result, error) {
	return tx.ExecContext(ctx, "INSERT INTO ? (?) ? ? ?", m.table.SQLName, bun.Safe(set.names),
		overriding(tx), bun.Safe(rows), bun.Safe(m.onConflict(set)))
}

// overriding lets an INSERT say the value of a column that is GENERATED ALWAYS AS IDENTITY. It
// changes nothing where there is none.
func overriding(tx bun.Tx) bun.Safe {
	if tx.Dialect().Name() == dialect.PG {
		return "OVERRIDING SYSTEM VALUE"
	}
	return ""
}

// saveInSteps looks whether the row is there, where an upsert does not do. An upsert of a part of a
// row fails on every required column outside it before it sees that the row exists. And MariaDB's
// cannot be told which key it may meet: it would change another row that holds a unique value of
// this one.
func (m *mirror) saveInSteps(
	ctx context.Context, tx bun.Tx, r *row, missing []string, shape *mirrorShape,
) error {
	there, err := m.there(ctx, tx, r, shape)
	set := r.columns
	switch {
	case err != nil:
		return err
	case there && set.update == "":
		return nil
	case there:
		assignments := make([]string, 0, len(set.fields))
		for i, f := range set.fields[set.keys:] {
			assignments = append(assignments, string(f.SQLName)+" = "+r.values[set.keys+i])
		}
		_, err = tx.ExecContext(ctx, "UPDATE ? SET ? WHERE ?", m.table.SQLName,
			bun.Safe(strings.Join(assignments, ", ")), bun.Safe(m.where(r, shape)))
	case len(missing) > 0:
		return &codeError{Permanent(fmt.Errorf("the message carries nothing for %s, which table "+
			"%s requires of a new row",
			quotedList(missing), m.table.Name))}
	default:
		if err := m.apart(ctx, tx, r, shape); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO ? (?) ? VALUES ?", m.table.SQLName,
			bun.Safe(set.names),
			overriding(tx), bun.Safe(r.tuple()))
	}
	return err
}

// there says whether the row exists, and locks it: another table's message may be about to change
// it. On MariaDB a plain SELECT would show an old snapshot besides.
func (m *mirror) there(ctx context.Context, tx bun.Tx, r *row, shape *mirrorShape) (bool, error) {
	lock := bun.Safe("FOR UPDATE")
	if tx.Dialect().Name() == dialect.SQLite {
		lock = ""
	}
	var found []int
	err := tx.NewRaw("SELECT 1 FROM ? WHERE ? ?", m.table.SQLName, bun.Safe(m.where(r, shape)),
		lock).Scan(ctx, &found)
	return len(found) > 0, err
}

func (m *mirror) where(r *row, shape *mirrorShape) string {
	var conditions []string
	for i, f := range m.table.PKs {
		conditions = append(conditions, string(f.SQLName)+" = "+r.values[i])
		if shape.folded[f.Name] != "" {
			name := m.gen.Dialect().Name()
			conditions = append(conditions, exactly(name, string(f.SQLName))+" = "+
				exactly(name, r.values[i]))
		}
	}
	return strings.Join(conditions, " AND ")
}

func (m *mirror) onConflict(set *columnSet) string {
	key := columns("", m.table.PKs)
	switch {
	case m.gen.Dialect().Name() == dialect.MySQL && set.update == "":
		pk := string(m.table.PKs[0].SQLName)
		return "ON DUPLICATE KEY UPDATE " + pk + " = " + pk
	case m.gen.Dialect().Name() == dialect.MySQL:
		return "ON DUPLICATE KEY UPDATE " + set.update
	case set.update == "":
		return "ON CONFLICT (" + key + ") DO NOTHING"
	default:
		return "ON CONFLICT (" + key + ") DO UPDATE SET " + set.update
	}
}

// assignment gives a column of a row that is there the new value.
func (m *mirror) assignment(f *schema.Field) string {
	if m.gen.Dialect().Name() == dialect.MySQL {
		return string(f.SQLName) + " = VALUES(" + string(f.SQLName) + ")"
	}
	return string(f.SQLName) + " = excluded." + string(f.SQLName)
}

// remove deletes rows, and their children first.
func (m *mirror) remove(ctx context.Context, tx bun.Tx, rows []*row) error {
	for _, known := range []bool{true, false} {
		those := slices.DeleteFunc(slices.Clone(rows), func(r *row) bool {
			return r.known != known
		})
		if err := m.removeThose(ctx, tx, those, m.ours(known)); err != nil {
			return err
		}
	}
	return nil
}

// removeThose deletes those of the rows that the model owns.
func (m *mirror) removeThose(ctx context.Context, tx bun.Tx, rows []*row, ours string) error {
	if len(m.children) > 0 && ours != "" {
		var err error
		if rows, err = m.keep(ctx, tx, rows, ours); err != nil {
			return err
		}
	}
	for _, child := range m.children {
		if err := child.clear(ctx, tx, rows); err != nil {
			return err
		}
	}
	return deleteWhere(ctx, tx, m.table, m.table.PKs, rows, m.shape.Load().folded, ours)
}

// keep are those of the rows for which a condition holds.
func (m *mirror) keep(
	ctx context.Context, tx bun.Tx, rows []*row, condition string,
) ([]*row, error) {
	var kept []*row
	for _, r := range rows {
		var found []int
		err := tx.NewRaw("SELECT 1 FROM ? WHERE ? AND (?)", m.table.SQLName,
			bun.Safe(m.where(r, m.shape.Load())), bun.Safe(condition)).Scan(ctx, &found)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			kept = append(kept, r)
		}
	}
	return kept, nil
}

// deleteWhere deletes the rows of a table whose columns hold the primary key of one of rows, as it
// is spelled, and for which a condition
// holds, if there is one.
func deleteWhere(
	ctx context.Context, tx bun.Tx, table *schema.Table, fields []*schema.Field, rows []*row,
	folded map[string]string, condition string,
) error {
	if len(rows) == 0 {
		return nil
	}
	where := anyOf(tx, fields, rows, folded)
	if condition != "" {
		where += " AND (" + condition + ")"
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE ?", table.SQLName, bun.Safe(where))
	return err
}

// tableName is a table as the catalog names it: PostgreSQL's names come quoted where they need it.
func tableName(tx bun.Tx, p parent) any {
	if tx.Dialect().Name() == dialect.PG {
		return bun.Safe(p.Table)
	}
	return bun.Ident(p.Table)
}

func columns(prefix string, fields []*schema.Field) string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = prefix + string(f.SQLName)
	}
	return strings.Join(list, ", ")
}

func quotedList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}
