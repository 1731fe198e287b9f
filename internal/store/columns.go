package store

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// PlainColumns returns the SQL types of a table's columns if nothing but the statements themselves changes its rows: an
// ordinary table without triggers, rules, generated columns, row security, and foreign keys that act on it. It returns
// nothing for any other table, and on databases whose catalog cannot tell.
func (s *Store) PlainColumns(ctx context.Context, tx bun.IDB, table string) (map[string]string, error) {
	query := s.dialect.plainColumns()
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
