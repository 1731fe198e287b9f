package replica

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// discriminators are the columns that tell the rows of a model from others in its table: those of
// Constant whose value is the same at every start. An expression or a time says nothing.
func (b *binding) discriminators() []string {
	var columns []string
	for _, column := range slices.Sorted(maps.Keys(b.constants)) {
		if isScalar(reflect.ValueOf(b.constants[column]).Kind()) {
			columns = append(columns, column)
		}
	}
	return columns
}

// owned is the condition that selects the rows of the model, empty where the whole table is its
// own.
func (b *binding) owned(gen schema.QueryGen, prefix string) string {
	var conditions []string
	for _, column := range b.discriminators() {
		conditions = append(conditions, b.isConstant(gen, prefix, column, "="))
	}
	return strings.Join(conditions, " AND ")
}

func (b *binding) isConstant(gen schema.QueryGen, prefix, column, operator string) string {
	f := b.table.FieldMap[column]
	return prefix + string(f.SQLName) + " " + operator + " " +
		string(fixedCell(f, b.constants[column]).appendTo(nil, gen))
}

// foreign is the condition that selects rows which belong to somebody else: of a key that the
// model's ledger holds, rows of another registered model only, because the value of a Constant may
// have changed since; of any other key, every row with another value.
func (b *binding) foreign(gen schema.QueryGen, known bool) string {
	var conditions []string
	if known {
		for _, other := range b.siblings {
			if theirs := other.owned(gen, ""); theirs != "" {
				conditions = append(conditions, "("+theirs+")")
			}
		}
		return strings.Join(conditions, " OR ")
	}
	for _, column := range b.discriminators() {
		conditions = append(conditions, b.isConstant(gen, "", column, "<>")) // not where it is NULL
	}
	return strings.Join(conditions, " OR ")
}

// shares says that a row with the model's key may be another one's: what tells them apart is not
// part of the key.
func (b *binding) shares() bool {
	return slices.ContainsFunc(b.discriminators(), func(column string) bool {
		return !b.table.FieldMap[column].IsPK
	})
}

// checkApart refuses a second model in a table whose rows nothing tells from the first one's: each
// would take the other's for its own, and a diff would delete them.
func (b *binding) checkApart(other *binding) error {
	if !isMirror(other) || string(other.table.SQLName) != string(b.table.SQLName) {
		return nil
	}
	for _, column := range b.discriminators() {
		value, has := other.constants[column]
		if has && isScalar(reflect.ValueOf(value).Kind()) &&
			fmt.Sprint(value) != fmt.Sprint(b.constants[column]) {
			b.siblings, other.siblings = append(b.siblings, other), append(other.siblings, b)
			return nil
		}
	}
	return fmt.Errorf("model %q is mirrored into table %s too, and nothing tells their rows "+
		"apart: give each its own table, or register both with Constant of one column and "+
		"different values",
		other.model, b.table.Name)
}

// refuseForeign fails where a row to be written is there already and belongs to somebody else.
func (m *mirror) refuseForeign(ctx context.Context, tx bun.Tx, rows []*row) error {
	if !m.shares() {
		return nil
	}
	byKnown := map[bool][]string{}
	for _, r := range rows {
		byKnown[r.known] = append(byKnown[r.known], r.key(len(m.table.PKs)))
	}
	for known, keys := range byKnown {
		foreign := m.foreign(m.gen, known)
		if foreign == "" {
			continue
		}
		var n int
		err := tx.NewRaw("SELECT count(*) FROM ? WHERE ? AND (?)", m.table.SQLName,
			bun.Safe(keyIn(tx, m.table.PKs, keys)), bun.Safe(foreign)).Scan(ctx, &n)
		if err != nil {
			return err
		}
		if n > 0 {
			return &codeError{Permanent(fmt.Errorf("key %s: table %s has a row of this key that "+
				"another model or the service owns (%s differs): make the column part of the "+
				"primary key, or set it in that row",
				keys[0], m.table.Name, quotedList(m.discriminators())))}
		}
	}
	return nil
}

// ours are the rows among those to be deleted that the model may delete, as a condition: a row
// without a value for the discriminator was written before there was one.
func (m *mirror) ours(known bool) string {
	if known {
		if theirs := m.foreign(m.gen, true); theirs != "" {
			return "coalesce(NOT (" + theirs + "), " + m.truth() + ")"
		}
		return ""
	}
	var conditions []string
	for _, column := range m.discriminators() {
		conditions = append(conditions, "("+m.isConstant(m.gen, "", column, "=")+" OR "+
			string(m.table.FieldMap[column].SQLName)+" IS NULL)")
	}
	return strings.Join(conditions, " AND ")
}

func (m *mirror) truth() string { return string(m.gen.Append(nil, true)) }

// clear deletes the rows that the model owns, and their children.
func (m *mirror) clear(ctx context.Context, tx bun.Tx) error {
	condition := "1 = 1"
	if owned := m.owned(m.gen, ""); owned != "" {
		condition = owned
	}
	for _, c := range m.children {
		names := columns("", c.relation.JoinPKs)
		if len(c.relation.JoinPKs) > 1 {
			names = "(" + names + ")"
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE ? IN (SELECT ? FROM ? WHERE ?)",
			c.table.SQLName,
			bun.Safe(names), bun.Safe(columns("",
				c.relation.BasePKs)), m.table.SQLName, bun.Safe(condition))
		if err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE ?", m.table.SQLName, bun.Safe(condition))
	return err
}
