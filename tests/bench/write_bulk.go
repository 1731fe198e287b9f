package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

// bulkRows is how many rows one statement writes.
const bulkRows = 100_000

// bulkBench writes many rows in one statement, on tables of its own for each case.
type bulkBench struct {
	db     *bun.DB
	update bool
	first  int // the next new key
	round  int
}

func benchWriteBulk(ctx context.Context, o options, report func(result)) error {
	for _, kind := range []string{"INSERT … SELECT", "UPDATE"} {
		name := fmt.Sprintf("PostgreSQL, bulk: %s of %d rows in one statement", kind, bulkRows)
		if !strings.Contains(name, o.only) {
			continue
		}
		b := &bulkBench{update: kind == "UPDATE", first: bulkRows + 1}
		if err := b.run(ctx, name, o, report); err != nil {
			return err
		}
	}
	return nil
}

func (b *bulkBench) run(
	ctx context.Context, name string, o options, report func(result),
) (err error) {
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	b.db = bun.NewDB(db.DB, db.Dialect()) // with nothing attached
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	g := group{
		bench: "write", name: name, unit: "rows/s", of: "hand-written outbox",
		cases: []benchCase{
			{"statement alone", b.measure("bulk_alone", false)},
			{"hand-written outbox", b.measure("bulk_hand", true)},
			{"cqrsync, triggers", b.measure("bulk_triggered", false)},
		},
	}
	r, err := g.measure(ctx, o)
	if err == nil {
		report(r)
	}
	return err
}

func (b *bulkBench) prepare(ctx context.Context) error {
	m, err := manifest.Parse([]byte("models: {bulk: {table: bulk_triggered}}"))
	if err != nil {
		return err
	}
	script := `CREATE TABLE hand_outbox (id bigserial PRIMARY KEY, topic text, key text, payload json)`
	for _, table := range []string{"bulk_alone", "bulk_hand", "bulk_triggered"} {
		script += `; CREATE TABLE ` + table +
			` (id bigint PRIMARY KEY, customer text, status text, total bigint, note text)`
		script += `; ` + b.insert(table, 1)
	}
	if _, err := b.db.DB.ExecContext(ctx, script); err != nil {
		return err
	}
	box, err := m.Box(ctx, bun.NewDB(b.db.DB, b.db.Dialect()), outbox.Config{})
	if err != nil {
		return err
	}
	if err := box.Migrate(ctx); err != nil {
		return err
	}
	triggers, err := m.Capture(ctx, b.db, outbox.Config{})
	if err != nil {
		return err
	}
	if err := triggers.Install(ctx); err != nil {
		return err
	}
	// The ledger knows the rows, as in a service that runs.
	_, err = b.db.DB.ExecContext(ctx, "UPDATE bulk_triggered SET status = 'known'")
	return err
}

func (b *bulkBench) insert(table string, first int) string {
	return fmt.Sprintf(`INSERT INTO %s SELECT n, 'customer ' || n, 'new', n * 100,
		'a note of about the length that notes have, because rows of a few bytes flatter everybody alike'
		FROM generate_series(%d, %d) AS n`, table, first, first+bulkRows-1)
}

// measure runs the statement in one transaction, by hand with what fills an outbox.
func (b *bulkBench) measure(table string, byHand bool) func(ctx context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		if err := b.tidy(ctx); err != nil {
			return 0, err
		}
		b.round++
		statement := b.insert(table, b.first)
		where := fmt.Sprintf("id BETWEEN %d AND %d", b.first, b.first+bulkRows-1)
		if b.update {
			where = fmt.Sprintf("id <= %d", bulkRows)
			statement = fmt.Sprintf("UPDATE %s SET status = 'status %d' WHERE %s", table, b.round, where)
		}
		b.first += bulkRows
		start := time.Now()
		err := b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.ExecContext(ctx, statement); err != nil || !byHand {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO hand_outbox (topic, key, payload)
				SELECT 'bulk', id::text, row_to_json(t) FROM %s AS t WHERE %s`, table, where))
			return err
		})
		return bulkRows / time.Since(start).Seconds(), err
	}
}

// tidy leaves each case the same room: messages are gone, and so are dead rows.
func (b *bulkBench) tidy(ctx context.Context) error {
	for _, statement := range []string{
		"TRUNCATE hand_outbox", "DELETE FROM outbox_messages",
		"VACUUM ANALYZE bulk_alone, bulk_hand, bulk_triggered, outbox_messages, " +
			"outbox_revisions, outbox_marks",
		"CHECKPOINT",
	} {
		if _, err := b.db.DB.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
