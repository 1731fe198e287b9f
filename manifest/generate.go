package manifest

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/catalog"
)

// Generate writes a first cqrsync.yaml for the tables of a database: those on the connection's
// search path. What it leaves out, and why, stands in comments. prefix is that of cqrsync's own
// tables.
func Generate(ctx context.Context, db *bun.DB, prefix string) (string, error) {
	tables, err := tablesOf(ctx, db)
	if err != nil {
		return "", err
	}
	nested, err := nestable(ctx, db, tables)
	if err != nil {
		return "", err
	}
	own := regexp.MustCompile("^" + regexp.QuoteMeta(prefix) + "(outbox|replica)_")
	var models, left strings.Builder
	for _, table := range tables {
		if own.MatchString(table) {
			continue
		}
		model, why := generated(ctx, db, table)
		if why != "" {
			fmt.Fprintf(&left, "# table %s is left out: %s\n", table, why)
			continue
		}
		models.WriteString(model + nested[table])
	}
	if models.Len() == 0 {
		models.WriteString("  {}\n")
	}
	return "# Written from the catalog. Take out what no other service needs: all of it is sent.\n" +
		"models:\n" +
		models.String() + left.String(), nil
}

// nestable are comments, by table, that say which rows of others could travel inside its messages.
func nestable(ctx context.Context, db *bun.DB, tables []string) (map[string]string, error) {
	shapes := make([]catalog.TableShape, len(tables))
	for i, table := range tables {
		quoted := string(db.QueryGen().AppendIdent(nil, table))
		var err error
		if shapes[i], err = catalog.ShapeOf(ctx, db, quoted, table); err != nil {
			return nil, err
		}
	}
	comments := map[string]string{}
	for i, table := range tables {
		for n, below := range shapes {
			for _, r := range below.References {
				key, is := shapes[i].Column(r.Target)
				if r.Table != shapes[i].Name || !is || !key.IsKey ||
					keysIn(shapes[i]) != 1 || keysIn(below) == 0 {
					continue
				}
				many := ", many: true"
				if isUnique(below, []string{r.Column}) {
					many = ""
				}
				comments[table] += fmt.Sprintf("    # to nest rows of %s: "+
					"relations: {%s: {table: %s, key: %s%s}}\n", tables[n], tables[n], tables[n], r.Column, many)
			}
		}
	}
	return comments, nil
}

func keysIn(shape catalog.TableShape) (n int) {
	for _, c := range shape.Columns {
		if c.IsKey {
			n++
		}
	}
	return n
}

// generated is the part of one table, or why there is none.
func generated(ctx context.Context, db *bun.DB, table string) (text, why string) {
	if err := envelope.CheckModel(table); err != nil {
		return "", "its name cannot be a CQRS id: " + err.Error()
	}
	if !tableName.MatchString(table) {
		return "", "its name has other characters than letters, digits and _"
	}
	columns, err := columnsOf(ctx, db, table)
	if err != nil {
		return "", err.Error()
	}
	var taken, notes []string
	keys := 0
	for i, c := range columns {
		if c.Generated && !c.IsKey {
			notes = append(notes, "    # column "+c.Name+" is left out: the database computes it; "+
				"name it under columns to send it\n")
			continue
		}
		if _, err := fieldOf(c, i, db.Dialect().Name(), ""); err != nil {
			if c.IsKey {
				return "", fmt.Sprintf("key column %s: %v", c.Name, err)
			}
			notes = append(notes, fmt.Sprintf("    # column %s is left out: %v\n", c.Name, err))
			continue
		}
		if c.IsKey {
			keys++
		}
		taken = append(taken, c.Name)
	}
	if keys == 0 {
		return "", "it has no primary key: give it one, or name unique columns under key"
	}
	text = fmt.Sprintf("  %s:\n    table: %s\n", table, table)
	if len(notes) > 0 { // else all columns, also those to come
		text += "    columns: [" + strings.Join(taken, ", ") + "]\n" + strings.Join(notes, "")
	}
	return text, ""
}

// tablesOf lists the ordinary tables by name. Partitions go with the table that they are a part of.
func tablesOf(ctx context.Context, db *bun.DB) ([]string, error) {
	query := `SELECT name FROM sqlite_master
		WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`
	switch db.Dialect().Name() { //nolint:exhaustive // those that manifests know
	case dialect.PG:
		query = `SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
			AND pg_table_is_visible(oid) AND relnamespace <> 'pg_catalog'::regnamespace ORDER BY relname`
	case dialect.MySQL:
		query = `SELECT table_name FROM information_schema.tables
			WHERE table_schema = database() AND table_type = 'BASE TABLE' ORDER BY table_name`
	}
	rows, err := db.DB.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for tables: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		all = append(all, name)
	}
	return all, rows.Err()
}
