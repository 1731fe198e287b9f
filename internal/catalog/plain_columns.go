package catalog

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// PlainColumns returns the SQL types of a table's columns if nothing but the statements themselves
// changes its rows: an ordinary table without triggers, rules, generated columns, row security, and
// foreign keys that act on it. It returns nothing for any other table, and on databases whose
// catalog cannot tell.
func (c *Catalog) PlainColumns(
	ctx context.Context, tx bun.IDB, table string,
) (map[string]string, error) {
	query := c.dialect.plainColumns()
	if query == "" {
		return nil, nil
	}
	rows, err := tx.QueryContext(ctx, query, table)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	columns := map[string]string{}
	for rows.Next() {
		var name, sqlType string
		if err := rows.Scan(&name, &sqlType); err != nil {
			return nil, fmt.Errorf("read the columns of %s: %w", table, err)
		}
		columns[name] = sqlType
	}
	return columns, rows.Err()
}

func (postgres) plainColumns() string {
	return `
		SELECT a.attname, format_type(a.atttypid, a.atttypmod)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.oid = to_regclass(?) AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity
			AND NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
			AND NOT EXISTS (SELECT 1 FROM pg_attribute g WHERE g.attrelid = c.oid AND g.attgenerated <> '')
			AND NOT EXISTS (SELECT 1 FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
				AND (f.confupdtype IN ('c', 'n', 'd') OR f.confdeltype IN ('c', 'n', 'd')))`
}

func (mariadb) plainColumns() string { return "" }

// plainColumns is empty: SQLite stores any value in any column, and a read costs no round trip.
func (sqlite) plainColumns() string { return "" }
