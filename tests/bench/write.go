package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

// plainOrder is the business row; trackedOrder is the same table, captured.
type plainOrder struct {
	bun.BaseModel `bun:"table:bench_orders"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

type trackedOrder struct {
	bun.BaseModel `bun:"table:bench_orders"`
	outbox.Tracked

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

// handOutbox is what a team would write itself.
type handOutbox struct {
	bun.BaseModel `bun:"table:hand_outbox"`

	ID      int64 `bun:",pk,autoincrement"`
	Topic   string
	Key     string
	Payload json.RawMessage `bun:"type:text"`
}

type opener func(context.Context) (*bun.DB, func() error, error)

func benchWrite(ctx context.Context, o options, report func(result)) error {
	for _, setting := range []struct {
		database      string
		open          opener
		writers, rows int
	}{
		{"PostgreSQL", openPostgres, 1, 1},
		{"PostgreSQL", openPostgres, 1, 100},
		{"PostgreSQL", openPostgres, 16, 1},
		{"PostgreSQL", openPostgres, 16, 100},
		{"SQLite", openSQLite, 1, 1},
		{"SQLite", openSQLite, 1, 100},
	} {
		for _, kind := range []string{"insert", "update"} {
			w := writeBench{writers: setting.writers, rows: setting.rows, update: kind == "update", o: o}
			name := fmt.Sprintf("%s, %d writers, %s of %d rows",
				setting.database, setting.writers, kind, setting.rows)
			if !strings.Contains(name, o.only) {
				continue
			}
			if err := w.run(ctx, name, setting.open, report); err != nil {
				return err
			}
		}
	}
	return benchWriteBulk(ctx, o, report)
}

type writeBench struct {
	writers, rows int
	update        bool
	o             options
	db            *bun.DB // with nothing attached
	box           *outbox.Box
	next          atomic.Int64
}

func (w *writeBench) run(
	ctx context.Context, name string, open opener, report func(result),
) (err error) {
	db, drop, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	if err := w.prepare(ctx, db); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	g := group{
		bench: "write", name: name, unit: "transactions/s", of: "hand-written outbox",
		cases: []benchCase{
			{"business statement alone", func(ctx context.Context) (float64, error) {
				return w.rate(ctx, w.business)
			}},
			{"hand-written outbox", func(ctx context.Context) (float64, error) {
				return w.rate(ctx, w.byHand)
			}},
			{"cqrsync", func(ctx context.Context) (float64, error) { return w.rate(ctx, w.captured) }},
			{"cqrsync, triggers", func(ctx context.Context) (float64, error) {
				return w.rate(ctx, w.triggered)
			}},
		},
	}
	r, err := g.measure(ctx, w.o)
	if err == nil {
		report(r)
	}
	return err
}

// updatedRows is how many rows the updates are spread over, for each writer its own part.
const updatedRows = 2000

func (w *writeBench) prepare(ctx context.Context, db *bun.DB) (err error) {
	w.db = bun.NewDB(db.DB, db.Dialect())
	w.next.Store(1_000_000)
	if w.box, err = outbox.New(db, outbox.Config{}); err != nil {
		return err
	}
	if err := outbox.Register[trackedOrder](w.box, "order"); err != nil {
		return err
	}
	if err := w.box.Migrate(ctx); err != nil {
		return err
	}
	for _, model := range []any{(*plainOrder)(nil), (*handOutbox)(nil)} {
		if _, err := w.db.NewCreateTable().Model(model).Exec(ctx); err != nil {
			return err
		}
	}
	rows := make([]plainOrder, updatedRows*w.writers)
	others := make([]triggeredOrder, len(rows))
	for i := range rows {
		rows[i] = newOrder(int64(i))
		r := rows[i]
		others[i] = triggeredOrder{
			ID: r.ID, Customer: r.Customer, Status: r.Status, Total: r.Total, Note: r.Note,
		}
	}
	if _, err = w.db.NewInsert().Model(&rows).Exec(ctx); err != nil {
		return err
	}
	if _, err = w.db.NewCreateTable().Model((*triggeredOrder)(nil)).Exec(ctx); err != nil {
		return err
	}
	if _, err = w.db.NewInsert().Model(&others).Exec(ctx); err != nil {
		return err
	}
	return installTriggers(ctx, w.db)
}

// triggeredOrder is a table of its own with triggers, written as any program would write it.
type triggeredOrder struct {
	bun.BaseModel `bun:"table:bench_triggered"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

func installTriggers(ctx context.Context, db *bun.DB) error {
	m, err := manifest.Parse([]byte("models: {triggered: {table: bench_triggered}}"))
	if err != nil {
		return err
	}
	triggers, err := m.Capture(ctx, db, outbox.Config{})
	if err != nil {
		return err
	}
	return triggers.Install(ctx)
}

func (w *writeBench) triggered(ctx context.Context, rows []plainOrder) error {
	triggered := make([]triggeredOrder, len(rows))
	for i, r := range rows {
		triggered[i] = triggeredOrder{
			ID: r.ID, Customer: r.Customer, Status: r.Status, Total: r.Total, Note: r.Note,
		}
	}
	return w.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return writeRows(ctx, tx, w.update, triggered)
	})
}

func newOrder(id int64) plainOrder {
	return plainOrder{
		ID: id, Customer: fmt.Sprintf("customer %d", id), Status: "new", Total: id * 100,
		Note: "a note of about the length that notes have, because rows of a few bytes flatter " +
			"everybody alike",
	}
}

// rate runs transactions on every writer for the duration and returns
// how many committed per second.
func (w *writeBench) rate(
	ctx context.Context, transaction func(ctx context.Context, rows []plainOrder) error,
) (float64, error) {
	var committed atomic.Int64
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for writer := range w.writers {
		group.Go(func() error {
			for n := 0; time.Since(start) < w.o.duration; n++ {
				if err := transaction(ctx, w.order(writer, n)); err != nil {
					return err
				}
				committed.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(committed.Load()) / time.Since(start).Seconds(), err
}

// order makes the rows of one transaction: new ones, or some of the writer's own.
func (w *writeBench) order(writer, n int) []plainOrder {
	rows := make([]plainOrder, w.rows)
	for i := range rows {
		if w.update {
			rows[i] = newOrder(int64(writer*updatedRows + (n*w.rows+i)%updatedRows))
			rows[i].Status = fmt.Sprint("status ", n)
		} else {
			rows[i] = newOrder(w.next.Add(1))
		}
	}
	return rows
}

func (w *writeBench) business(ctx context.Context, rows []plainOrder) error {
	return w.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return writeRows(ctx, tx, w.update, rows)
	})
}

func (w *writeBench) byHand(ctx context.Context, rows []plainOrder) error {
	return w.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if err := writeRows(ctx, tx, w.update, rows); err != nil {
			return err
		}
		messages := make([]handOutbox, len(rows))
		for i, row := range rows {
			payload, err := json.Marshal(map[string]any{
				"id": row.ID, "customer": row.Customer, "status": row.Status, "total": row.Total,
				"note": row.Note,
			})
			if err != nil {
				return err
			}
			messages[i] = handOutbox{Topic: "order", Key: fmt.Sprint(row.ID), Payload: payload}
		}
		_, err := tx.NewInsert().Model(&messages).Returning("NULL").Exec(ctx)
		return err
	})
}

func (w *writeBench) captured(ctx context.Context, rows []plainOrder) error {
	tracked := make([]trackedOrder, len(rows))
	for i, r := range rows {
		tracked[i] = trackedOrder{
			ID: r.ID, Customer: r.Customer, Status: r.Status, Total: r.Total, Note: r.Note,
		}
	}
	return w.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return writeRows(ctx, tx, w.update, tracked)
	})
}

// writeRows is the business statement: one INSERT, or one UPDATE by primary key.
func writeRows[T any](ctx context.Context, tx bun.Tx, update bool, rows []T) (err error) {
	switch {
	case !update:
		_, err = tx.NewInsert().Model(&rows).Exec(ctx)
	case len(rows) == 1:
		_, err = tx.NewUpdate().Model(&rows[0]).WherePK().Exec(ctx)
	default:
		_, err = tx.NewUpdate().Model(&rows).Bulk().Exec(ctx)
	}
	return err
}
