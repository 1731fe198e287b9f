package queue

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// Counting rows takes longer the more there are, and a backlog is just when somebody wants to know.
// So a table is counted up to a bound, and beyond it the database says about how many there are.

// bound says how far rows are counted.
type bound struct {
	rows int64 // so many are counted at least
	// pages are how many of a table PostgreSQL looks at for an estimate, chosen at random but the
	// same each time. The estimate is then right within some hundredths, whatever is missing
	// between the rows.
	pages int64
}

var countBound = bound{rows: 100_000, pages: 2500}

// Count is a number of rows.
type Count struct {
	Rows int64
	// Estimated says that Rows is about right. It is more than 100,000 then.
	Estimated bool
}

// count counts the rows of a table. key are the columns of its primary key.
func (q *Queue) count(ctx context.Context, table bun.Safe, key string) (Count, error) {
	c, err := q.dialect.count(ctx, q.DB(), string(table), q.SQL(key), countBound)
	if err != nil {
		return Count{}, fmt.Errorf("count the rows of %s: %w", table, err)
	}
	return c, nil
}

// beyond is an estimate of more rows than were counted.
func beyond(rows, estimate int64) Count { return Count{Rows: max(rows, estimate), Estimated: true} }

// upTo is a query that counts rows up to n.
func upTo(table, order string, n int64) string {
	return fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM %s%s LIMIT %d) AS counted", table,
		order, n)
}

// count looks at a small table, and at a part of a large one. Few rows in a large table are what a
// backlog leaves behind: they are counted by the index, which walks over what was removed and not
// yet vacuumed, as a claim does.
func (postgres) count(ctx context.Context, db bun.IDB, table, key string, b bound) (Count, error) {
	pages := "pg_relation_size('" + table + "') / current_setting('block_size')::bigint"
	var rows *int64
	var size int64
	err := db.QueryRowContext(ctx,
		fmt.Sprintf("SELECT %[1]s, CASE WHEN %[1]s <= %[2]d THEN (SELECT count(*) FROM %[3]s) END",
			pages, 2*b.pages, table)).Scan(&size, &rows)
	if err != nil || rows != nil {
		return exactly(rows), err
	}
	var sampled int64
	err = db.QueryRowContext(ctx,
		fmt.Sprintf("SELECT count(*) FROM %s TABLESAMPLE SYSTEM (%f) REPEATABLE (0)",
			table, 100*float64(b.pages)/float64(size))).Scan(&sampled)
	if err != nil {
		return Count{}, err
	}
	estimate := sampled * size / b.pages
	if estimate > b.rows {
		return beyond(0, estimate), nil
	}
	var n int64
	if err := db.QueryRowContext(ctx, upTo(table, " ORDER BY "+key,
		2*b.rows)).Scan(&n); err != nil || n < 2*b.rows {
		return Count{Rows: n}, err
	}
	return beyond(n, estimate), nil
}

func exactly(rows *int64) Count {
	if rows == nil {
		return Count{}
	}
	return Count{Rows: *rows}
}

// count asks InnoDB, which keeps a number that it corrects now and then.
func (m mariadb) count(ctx context.Context, db bun.IDB, table, _ string, b bound) (Count, error) {
	var n, estimate int64
	err := db.QueryRowContext(ctx, upTo(table, "", b.rows+1)).Scan(&n)
	if err != nil || n <= b.rows {
		return Count{Rows: n}, err
	}
	err = db.QueryRowContext(ctx, m.tableRows(table)).Scan(&estimate)
	return beyond(n, estimate), err
}

// count is exact: SQLite adds up what stands on the pages of the smallest index, without looking at
// the rows.
func (sqlite) count(
	ctx context.Context, db bun.IDB, table, _ string, _ bound,
) (c Count, err error) {
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&c.Rows)
	return c, err
}
