package catalog

import (
	"context"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
)

// Behaviour is what the database does with a table of the service's own beyond what a statement
// says.
type Behaviour struct {
	// Cascades are the foreign keys by which a change of another table's row changes rows of this
	// one.
	Cascades []Cascade
	// Triggers and Rules are named; of triggers those that are enabled.
	Triggers, Rules []string
	// RowSecurity says that a session may not see all rows.
	RowSecurity bool
	// Unique are the columns of each key or index that is unique for every row.
	Unique [][]string
	// Folded are the columns that take two spellings for one value, and by what: a collation or a
	// type.
	Folded map[string]string
	// Texts are the columns that hold texts, and the type of each.
	Texts map[string]string
}

// Cascade is a foreign key that changes rows by itself.
type Cascade struct {
	// Name is the constraint's; empty where the database does not name it.
	Name string
	// Parent is the table whose rows it follows, Rule what it does.
	Parent, Rule string
}

// Behaviour reads the catalog about a table: quoted as in SQL, and by its name, with its schema if
// there is one.
func (c *Catalog) Behaviour(
	ctx context.Context, db bun.IDB, quoted, name string,
) (b Behaviour, err error) {
	q := c.dialect.behaviour()
	args := []any{quoted}
	if !q.byQuotedName {
		schema, bare, qualified := strings.Cut(name, ".")
		if !qualified {
			schema, bare = "", name
		}
		args = []any{bare, schema}
	}
	read := func(query string, each func(name, parent, rule string)) {
		if query != "" && err == nil {
			err = readFacts(ctx, db, query, args, each)
		}
	}
	read(q.cascades, func(name, parent, rule string) {
		b.Cascades = append(b.Cascades, Cascade{name, parent, rule})
	})
	read(q.triggers, func(name, _, _ string) { b.Triggers = append(b.Triggers, name) })
	read(q.rules, func(name, _, _ string) { b.Rules = append(b.Rules, name) })
	read(q.rowSecurity, func(string, string, string) { b.RowSecurity = true })
	index := ""
	read(q.unique, func(name, column, _ string) {
		if name != index || len(b.Unique) == 0 {
			index, b.Unique = name, append(b.Unique, nil)
		}
		last := len(b.Unique) - 1
		b.Unique[last] = append(b.Unique[last], column)
	})
	b.Folded = map[string]string{}
	read(q.folded, func(column, _, by string) { b.Folded[column] = by })
	b.Texts = map[string]string{}
	read(q.texts, func(column, _, typ string) { b.Texts[column] = typ })
	if err != nil {
		return Behaviour{}, fmt.Errorf("read the catalog about table %s: %w", name, err)
	}
	return b, nil
}

// readFacts calls each for every row of a query of three texts. A query names the table by ?0, and
// where it is not found by its quoted name the schema by ?1, which may be empty.
func readFacts(
	ctx context.Context, db bun.IDB, query string, args []any, each func(name, parent, rule string),
) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var name, parent, rule string
		if err := rows.Scan(&name, &parent, &rule); err != nil {
			return err
		}
		each(name, parent, rule)
	}
	return rows.Err()
}

// CachedSequence returns the sequence that numbers the messages if each session draws several
// numbers at once: then a message may get a smaller one than an older message of its key, and leave
// before it.
func (c *Catalog) CachedSequence(ctx context.Context, db bun.IDB) (name string, err error) {
	query := c.dialect.behaviour().cachedSequence
	if query == "" {
		return "", nil
	}
	args := []any{c.messages}
	err = readFacts(ctx, db, query, args, func(sequence, _, _ string) { name = sequence })
	if err != nil {
		err = fmt.Errorf("read the catalog about the numbering of messages: %w", err)
	}
	return name, err
}

// behaviourQueries ask a catalog about one table. Each returns rows of three texts, and may be
// empty.
type behaviourQueries struct {
	byQuotedName bool

	cascades, triggers, rules, rowSecurity, unique, folded, texts string

	cachedSequence string
}
