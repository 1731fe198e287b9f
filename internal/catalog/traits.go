package catalog

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Traits are what a user's table does with the rows that a statement writes.
type Traits struct {
	// Reroutes says that rows may be written although the database counts none: a rule, a view, or
	// a trigger that puts them elsewhere.
	Reroutes bool
	// MovesInserts says that an INSERT may store a row under another key than it names, because of
	// a trigger of the table or of one of its partitions.
	MovesInserts bool
	// MovesUpdates says the same of an UPDATE, and of an INSERT that updates the row it meets.
	MovesUpdates bool
	// Versions says that [Store.RowVersion] knows each write of a row.
	Versions bool
	// Replaces says that the table's definition lets a write delete other rows, or keep some of its
	// rows when it fails: SQLite's ON CONFLICT REPLACE and FAIL.
	Replaces bool
}

// Traits reads them from the catalog. table is the quoted name, as it stands in a statement.
func (c *Catalog) Traits(ctx context.Context, tx bun.IDB, table string) (Traits, error) {
	var t Traits
	query, args := c.dialect.traits(table)
	if err := tx.QueryRowContext(ctx, query, args...).Scan(
		&t.Reroutes, &t.MovesInserts, &t.MovesUpdates, &t.Replaces, &t.Versions); err != nil {
		return t, fmt.Errorf("ask the catalog what writes %s: %w", table, err)
	}
	return t, nil
}

// RowVersion is an expression for a row: where the table has versions, another one after each
// write; else the same for all rows, which tells how many there are.
func (c *Catalog) RowVersion(has bool) string {
	if has {
		return c.dialect.rowVersion()
	}
	return "'row'"
}

// LastInserted is a condition for the row that the last INSERT of the transaction made, if it made
// one and the database drew its key; column is its key, sqlColumn as quoted. It finds nothing where
// the catalog does not say so.
func (c *Catalog) LastInserted(table, column, sqlColumn string) string {
	return c.dialect.lastInserted(table, column, sqlColumn)
}

// Kin is a relation through which rows of another one can be written.
type Kin struct{ Schema, Name string }

// Kin lists the partitions, the parents and children by inheritance, and the views of a table, at
// any distance; of a view also the tables behind it.
func (c *Catalog) Kin(ctx context.Context, db bun.IDB, table string) ([]Kin, error) {
	query, args := c.dialect.kin(table)
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for partitions and views of %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []Kin
	for rows.Next() {
		var k Kin
		if err := rows.Scan(&k.Schema, &k.Name); err != nil {
			return nil, fmt.Errorf("ask the catalog for partitions and views of %s: %w", table, err)
		}
		all = append(all, k)
	}
	return all, rows.Err()
}

// traits reads the catalog. In tgtype 2 is BEFORE, 4 INSERT, 16 UPDATE, 64 INSTEAD OF; in ev_type 2
// is UPDATE, 3 INSERT. A table that is not there has no traits: its statements fail. A trigger that
// runs before a row changes its key, one that runs after it may update it. It may stand on a
// partition, or on the table behind a view; what a foreign table has is not known.
func (postgres) traits(table string) (query string, args []any) {
	return `
		WITH RECURSIVE top AS (
			SELECT * FROM pg_class WHERE oid = to_regclass(?)), below(oid, relkind) AS (
			SELECT oid, relkind FROM top UNION SELECT c.oid, c.relkind FROM below b CROSS JOIN LATERAL (
				SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = b.oid
				UNION ALL SELECT d.refobjid FROM pg_rewrite r JOIN pg_depend d
					ON d.classid = 'pg_rewrite'::regclass
					AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> b.oid
				WHERE r.ev_class = b.oid AND b.relkind = 'v'
			) n JOIN pg_class c ON c.oid = n.oid
		), moves(type) AS (
			SELECT t.tgtype::int FROM below JOIN pg_trigger t ON t.tgrelid = below.oid
				WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
			UNION ALL SELECT CASE r.ev_type WHEN '2' THEN 16 WHEN '3' THEN 4 ELSE 0 END
				FROM below JOIN pg_rewrite r ON r.ev_class = below.oid
			UNION ALL SELECT 4 + 16 FROM below WHERE relkind = 'f'
		)
		SELECT coalesce(bool_or(
				top.relkind NOT IN ('r', 'p') OR top.relhasrules OR t.tgtype & 66 <> 0), false),
			EXISTS (SELECT 1 FROM moves WHERE type & 4 <> 0),
			EXISTS (SELECT 1 FROM moves WHERE type & 16 <> 0),
			false, coalesce(bool_or(top.relkind IN ('r', 'p')), false)
		FROM top LEFT JOIN pg_trigger t
			ON t.tgrelid = top.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'`, []any{table}
}

func (postgres) rowVersion() string { return "tableoid::text || ctid::text" }
func (mariadb) rowVersion() string  { return "'row'" }
func (sqlite) rowVersion() string   { return "'row'" }

func (postgres) lastInserted(table, column, sqlColumn string) string {
	names := `'` + db.QuoteText(table) + `', '` + db.QuoteText(column) + `'`
	return sqlColumn + ` = (
		SELECT currval(pg_get_serial_sequence(` + names + `))
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = to_regclass('` + db.QuoteText(table) + `')
			AND a.attname = '` + db.QuoteText(column) + `'
			AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%')
			AND pg_get_serial_sequence(` + names + `) IS NOT NULL
			AND NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = a.attrelid AND NOT t.tgisinternal))`
}

// kin walks inheritance and the rules of views in both directions. System schemas have no rows of
// users.
func (postgres) kin(table string) (query string, args []any) {
	return `
		WITH RECURSIVE step(from_oid, to_oid) AS (
			SELECT inhparent, inhrelid FROM pg_inherits UNION SELECT inhrelid, inhparent FROM pg_inherits
			UNION SELECT d.refobjid, r.ev_class FROM pg_rewrite r JOIN pg_depend d
				ON d.classid = 'pg_rewrite'::regclass
				AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
			UNION SELECT r.ev_class, d.refobjid FROM pg_rewrite r JOIN pg_depend d
				ON d.classid = 'pg_rewrite'::regclass
				AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
		), kin(oid) AS (
			SELECT to_regclass(?)::oid UNION SELECT s.to_oid FROM kin JOIN step s ON s.from_oid = kin.oid
		)
		SELECT n.nspname, c.relname FROM kin JOIN pg_class c USING (oid)
			JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid <> to_regclass(?)
			AND n.nspname NOT IN ('pg_catalog', 'information_schema')`, []any{table, table}
}

// traits asks for triggers that run before: such a one can change the key of a row. No trigger of
// MariaDB can put a row elsewhere.
func (mariadb) traits(table string) (query string, args []any) {
	schema, name := db.BareName(table, "`")
	const before = `EXISTS (SELECT 1 FROM information_schema.triggers
		WHERE event_object_schema = coalesce(nullif(?, ''), database()) AND event_object_table = ?
			AND event_manipulation = ? AND action_timing = 'BEFORE')`
	return "SELECT FALSE, " + before + ", " + before + ", FALSE, FALSE",
		[]any{schema, name, "INSERT", schema, name, "UPDATE"}
}

func (mariadb) lastInserted(table, column, sqlColumn string) string {
	schema, name := db.BareName(table, "`")
	return sqlColumn + ` = (SELECT LAST_INSERT_ID() FROM information_schema.columns
		WHERE table_schema = coalesce(nullif('` + db.QuoteText(schema) + `', ''), database())
			AND table_name = '` + db.QuoteText(name) + `'
			AND column_name = '` + db.QuoteText(column) + `' AND extra LIKE '%auto_increment%')`
}

func (mariadb) kin(table string) (query string, args []any) {
	schema, name := db.BareName(table, "`")
	return `
		SELECT '', v.table_name FROM information_schema.views v
		WHERE v.table_schema = coalesce(nullif(?, ''),
			database()) AND v.view_definition LIKE concat('%', ?, '%')
		UNION SELECT '', t.table_name FROM information_schema.views v
			JOIN information_schema.tables t ON t.table_schema = v.table_schema
			AND t.table_name <> v.table_name
			AND v.view_definition LIKE concat('%', '` + "`" + `', t.table_name, '` + "`" + `', '%')
		WHERE v.table_schema = coalesce(nullif(?, ''), database()) AND v.table_name = ?`,
		[]any{schema, "`" + name + "`", schema, name}
}

// traits are those of a view alone, which has its rows elsewhere: no trigger changes what an INSERT
// stores, and an AFTER trigger may update it.
func (sqlite) traits(table string) (query string, args []any) {
	_, name := db.BareName(table, `"`)
	const moves = `EXISTS (SELECT 1 FROM sqlite_master
		WHERE type IN ('view', 'trigger') AND lower(tbl_name) = lower(?))`
	return `
		SELECT EXISTS (SELECT 1 FROM sqlite_master
				WHERE type = 'view' AND lower(name) = lower(?)), ` + moves + `, ` + moves + `,
			EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?)
				AND (sql LIKE '%conflict%replace%' OR sql LIKE '%conflict%fail%')), FALSE`,
		[]any{name, name, name, name}
}

func (sqlite) lastInserted(string, string, string) string { return "rowid = last_insert_rowid()" }

func (sqlite) kin(table string) (query string, args []any) {
	_, name := db.BareName(table, `"`)
	return `
		SELECT '', name FROM sqlite_master
		WHERE type = 'view' AND lower(name) <> lower(?) AND instr(lower(sql), lower(?)) > 0
		UNION SELECT '', t.name FROM sqlite_master AS v
			JOIN sqlite_master AS t ON t.type = 'table' AND instr(lower(v.sql), lower(t.name)) > 0
		WHERE v.type = 'view' AND lower(v.name) = lower(?)`, []any{name, name, name}
}
