package queue

import (
	"context"
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

func (q *Queue) renumber(ctx context.Context, count int) error {
	return q.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error {
		old, err := q.lanes.Read(ctx, tx)
		if err != nil || old.Count == count {
			return err
		}
		next := outgoing.Numbering{First: old.First + old.Count, Count: count}
		if next.First+next.Count-1 > lastLane {
			next.First = 0
		}
		before, after := q.dialect.renumber(q.Names(), next.First, next.First+next.Count-1)
		if err := db.ExecAll(ctx, tx, before); err != nil {
			return err
		}
		if err := q.replaceLanes(ctx, tx, old, next); err != nil {
			return err
		}
		if err := q.moveMessages(ctx, tx, next); err != nil {
			return err
		}
		return db.ExecAll(ctx, tx, after)
	})
}

// replaceLanes makes the new lanes. Their epochs go on, so that a relay from before owns none of
// them, whatever their numbers.
func (q *Queue) replaceLanes(ctx context.Context, tx bun.IDB, old, next outgoing.Numbering) error {
	lanes := q.Table("outbox_lanes")
	// locks them all
	if _, err := tx.ExecContext(ctx, "UPDATE ? SET epoch = epoch + 1", lanes); err != nil {
		return err
	}
	var owned int
	var epoch int64
	err := tx.QueryRowContext(ctx, "SELECT count(CASE WHEN expires_at >= "+q.dialect.Now()+
		" THEN 1 END), max(epoch) FROM ?", lanes).
		Scan(&owned, &epoch)
	if err != nil {
		return err
	}
	if owned > 0 {
		return errTaken
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE lane BETWEEN ? AND ?", lanes, old.First,
		old.First+old.Count-1)
	if err != nil {
		return err
	}
	rows := make([]laneRow, next.Count)
	for i := range rows {
		rows[i] = laneRow{next.First + i, epoch}
	}
	_, err = tx.NewInsert().Model(&rows).ModelTableExpr("?", lanes).Returning("NULL").Exec(ctx)
	return err
}

type laneRow struct {
	Lane  int   `bun:",pk"`
	Epoch int64 `bun:"epoch"`
}

// moveMessages puts what is unsent into the new lanes. The identities stay, so that the order of a
// key does.
func (q *Queue) moveMessages(ctx context.Context, tx bun.IDB, next outgoing.Numbering) error {
	type move struct{ from, to int }
	moves := map[move][]int64{}
	rows, err := tx.QueryContext(ctx, q.SQL(`SELECT id, lane, model, "key" FROM ?`),
		q.Table("outbox_messages"))
	if err != nil {
		return err
	}
	if err := eachMessage(rows, func(id int64, lane int, model, key string) {
		m := move{lane, next.Lane(model, key)}
		moves[m] = append(moves[m], id)
	}); err != nil {
		return err
	}
	for m, ids := range moves {
		for chunk := range slices.Chunk(ids, db.MaxKeys) {
			_, err := tx.ExecContext(ctx, "UPDATE ? SET lane = ? WHERE lane = ? AND id IN (?)",
				q.Table("outbox_messages"), m.to, m.from, bun.List(chunk))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func eachMessage(rows *sql.Rows, fn func(id int64, lane int, model, key string)) error {
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var id int64
		var lane int
		var model, key string
		if err := rows.Scan(&id, &lane, &model, &key); err != nil {
			return err
		}
		fn(id, lane, model, key)
	}
	return rows.Err()
}
