package capture

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// noted is a row of outbox_dirty.
type noted struct {
	id int64
	Mark
	op string
}

// takeRows deletes marks, and returns one for each key of those that were still there.
func (c *Capture) takeRows(
	ctx context.Context, tx bun.IDB, where string, args ...any,
) ([]Mark, error) {
	key := "key"
	if c.db.Dialect().Name() == dialect.MySQL {
		key = "`key`"
	}
	said := "NULL, NULL, NULL"
	if c.db.Dialect().Name() == dialect.PG {
		said = "meta::text, headers::text, correlation_id"
	}
	rows, err := tx.QueryContext(ctx, "DELETE FROM "+c.qualified("outbox_dirty")+" WHERE "+where+
		" RETURNING id, model, "+key+", op, "+said, args...)
	if err != nil {
		return nil, fmt.Errorf("take what triggers marked: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []noted
	for rows.Next() {
		n, err := scanNoted(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b noted) int { return cmp.Compare(a.id, b.id) })
	return fold(all), rows.Err()
}

func scanNoted(rows *sql.Rows) (n noted, err error) {
	var meta, headers, correlation *string
	if err := rows.Scan(&n.id, &n.Model, &n.Key, &n.op, &meta, &headers, &correlation); err != nil {
		return n, err
	}
	if meta != nil {
		n.Said.Meta = json.RawMessage(*meta)
	}
	if correlation != nil {
		n.Said.CorrelationID = *correlation
	}
	if headers != nil {
		err = json.Unmarshal([]byte(*headers), &n.Said.Headers)
	}
	return n, err
}

// fold makes one mark of all those of a key, which come in their order.
func fold(all []noted) []Mark {
	at := map[[2]string]int{}
	var marks []Mark
	for _, n := range all {
		key := [2]string{n.Model, n.Key}
		i, known := at[key]
		if !known {
			i = len(marks)
			at[key] = i
			n.Touched = true
			marks = append(marks, n.Mark)
		}
		m := &marks[i]
		m.Said = n.Said
		if n.op == "t" {
			continue
		}
		if m.Touched {
			m.Touched, m.Inserted = false, n.op == "i"
		}
		m.Gone = n.op == "d"
	}
	return marks
}
