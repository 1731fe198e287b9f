package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// TableShape is what the database's catalog knows of a table of the service's own.
type TableShape struct {
	// Name is the table's as other shapes' References call it. It is empty where there is no such
	// table.
	Name string
	// Columns are the table's, in their order.
	Columns []Column
	// References are the foreign keys of one column.
	References []Reference
	// Unique are the keys and indexes that keep rows apart.
	Unique []UniqueKey
}

// Reference is a foreign key of one column.
type Reference struct {
	// Name is the constraint's; SQLite does not tell it.
	Name   string
	Column string
	// Table and Target are what the column points to.
	Table, Target string
	// Deferrable says that the check can wait for the end of the transaction.
	Deferrable bool
}

// UniqueKey is a unique index, or the primary key.
type UniqueKey struct {
	Name    string
	Columns []string
	// Partial says that it holds for some rows only, or for a part of a column: it does not tell
	// all rows apart by what their columns hold.
	Partial bool
	// Deferrable says that the check can wait for the end of the transaction. No upsert can go by
	// such a key.
	Deferrable bool
}

// Column returns the column of a name.
func (t TableShape) Column(name string) (Column, bool) {
	i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return t.Columns[i], true
}

// Required are the columns of which an INSERT has to say something.
func (t TableShape) Required() (names []string) {
	for _, c := range t.Columns {
		if c.NotNull && !c.HasDefault && !c.Generated {
			names = append(names, c.Name)
		}
	}
	return names
}

// TableShape reads the catalog about a table of the service's own: quoted as in SQL, and by its
// name, with its schema if there is one. A table that is not there has the zero shape.
func (c *Catalog) TableShape(
	ctx context.Context, db bun.IDB, quoted, name string,
) (shape TableShape, err error) {
	return tableShape(ctx, db, c.dialect, quoted, name)
}

// ShapeOf is Catalog.TableShape where there are no tables of cqrsync's own.
func ShapeOf(ctx context.Context, bunDB *bun.DB, quoted, name string) (TableShape, error) {
	d, err := db.New(bunDB, db.Names{})
	if err != nil {
		return TableShape{}, err
	}
	return New(d).TableShape(ctx, bunDB, quoted, name)
}

func tableShape(
	ctx context.Context, db bun.IDB, d dialect, quoted, name string,
) (shape TableShape, err error) {
	q := d.catalog()
	args := []any{quoted}
	if !q.byQuotedName {
		schema, bare, qualified := strings.Cut(name, ".")
		if !qualified {
			schema, bare = "", name
		}
		args = []any{bare, schema}
	}
	if shape.Columns, err = tableColumns(ctx, db, q, args); err == nil && len(shape.Columns) > 0 {
		err = shape.readKeys(ctx, db, q, args)
	}
	if err != nil {
		return TableShape{}, fmt.Errorf("read the catalog about table %s: %w", name, err)
	}
	return shape, nil
}

func (t *TableShape) readKeys(ctx context.Context, db bun.IDB, q catalogQueries, args []any) error {
	err := readFacts(ctx, db, q.name, args, func(name, _, _ string) { t.Name = name })
	if err == nil {
		err = db.NewRaw(q.references, args...).Scan(ctx, &t.References)
	}
	if err != nil {
		return err
	}
	var parts []struct {
		Name, Column        string
		Partial, Deferrable bool
	}
	if err := db.NewRaw(q.unique, args...).Scan(ctx, &parts); err != nil {
		return err
	}
	for i, p := range parts {
		if i == 0 || p.Name != parts[i-1].Name {
			t.Unique = append(t.Unique, UniqueKey{Name: p.Name, Deferrable: p.Deferrable})
		}
		last := &t.Unique[len(t.Unique)-1]
		last.Columns = append(last.Columns, p.Column)
		last.Partial = last.Partial || p.Partial
	}
	return nil
}

// catalogQueries ask about a table: ?0 is its quoted name where byQuotedName, else its name, and ?1
// its schema, which may be empty.
type catalogQueries struct {
	byQuotedName bool
	// columns returns what Column is made of, name the name and two empty texts, references and
	// unique what their structs hold, unique a row per column of an index.
	columns, name, references, unique string
	// read completes what columns returned.
	read func(*Column, columnFacts)
}

func (postgres) catalog() catalogQueries {
	return catalogQueries{
		byQuotedName: true,
		columns:      postgresColumns,
		read:         readPostgresColumn,
		name:         `SELECT to_regclass(?0)::text, '', ''`,
		references: `
			SELECT c.conname AS name, a.attname AS "column", c.confrelid::regclass::text AS "table",
				b.attname AS target, c.condeferrable AS "deferrable"
			FROM pg_constraint AS c
				JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
				JOIN pg_attribute AS b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
			WHERE c.conrelid = to_regclass(?0) AND c.contype = 'f' AND array_length(c.conkey, 1) = 1
			ORDER BY a.attnum`,
		unique: `
			SELECT i.indexrelid::regclass::text AS name, coalesce(a.attname, '') AS "column",
				i.indpred IS NOT NULL OR i.indexprs IS NOT NULL AS partial, NOT i.indimmediate AS "deferrable"
			FROM pg_index AS i
				CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k
				LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k AND k > 0
			WHERE i.indrelid = to_regclass(?0) AND i.indisunique AND i.indisvalid
			ORDER BY i.indexrelid`,
	}
}

func (mariadb) catalog() catalogQueries {
	const (
		of   = ` table_schema = coalesce(nullif(?1, ''), database()) AND table_name = ?0`
		name = `if(%[1]sschema = database(), %[1]sname, concat(%[1]sschema, '.', %[1]sname))`
	)
	return catalogQueries{
		columns: mysqlColumns + of + ` ORDER BY ordinal_position`,
		read:    readMySQLColumn,
		name: `SELECT ` + fmt.Sprintf(name, "table_") + `, '', '' FROM information_schema.tables
			WHERE` + of,
		references: "SELECT constraint_name AS name, min(column_name) AS `column`, " +
			"min(" + fmt.Sprintf(name, "referenced_table_") + ") AS `table`, " + `
				min(referenced_column_name) AS target
			FROM information_schema.key_column_usage
			WHERE` + of + ` AND referenced_table_name IS NOT NULL
			GROUP BY constraint_name HAVING count(*) = 1`,
		unique: "SELECT index_name AS name, column_name AS `column`, sub_part IS NOT NULL AS partial" + `
			FROM information_schema.statistics WHERE` + of + ` AND non_unique = 0
			ORDER BY index_name, seq_in_index`,
	}
}

func (sqlite) catalog() catalogQueries {
	return catalogQueries{
		columns: sqliteColumns,
		read:    readSQLiteColumn,
		name:    `SELECT CASE WHEN ?1 IN ('', 'main') THEN ?0 ELSE ?1 || '.' || ?0 END, '', ''`,
		references: `
			SELECT min(f."from") AS "column",
				CASE WHEN ?1 IN ('', 'main') THEN f."table" ELSE ?1 || '.' || f."table" END AS "table",
				coalesce(min(f."to"), (
					SELECT name FROM pragma_table_info(f."table", nullif(?1, '')) WHERE pk = 1))
					AS target,
				1 AS "deferrable"
			FROM pragma_foreign_key_list(?0, nullif(?1, '')) AS f
			GROUP BY f.id, f."table" HAVING count(*) = 1`,
		// An INTEGER PRIMARY KEY is the row's number, and has no index.
		unique: `
			SELECT ' row' AS name, name AS "column", 0 AS partial FROM pragma_table_info(?0, nullif(?1, ''))
			WHERE pk > 0 AND NOT EXISTS (
				SELECT 1 FROM pragma_index_list(?0, nullif(?1, '')) WHERE origin = 'pk')
			UNION ALL
			SELECT l.name, coalesce(i.name, ''), l.partial OR i.name IS NULL
			FROM pragma_index_list(?0, nullif(?1, '')) AS l, pragma_index_info(l.name, nullif(?1, '')) AS i
			WHERE l."unique"
			ORDER BY 1`,
	}
}
