package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
)

// benchDumpLoad fills an empty replica by dump | load, and by COPY out of the same table
// and in, which knows no revisions.
func benchDumpLoad(ctx context.Context, o options, report func(result)) (err error) {
	p, err := newPair(ctx, o.rows, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var peak, peakOfTenth float64
	g := group{
		bench: "dump-load", name: fmt.Sprintf("%d rows", o.rows), unit: "rows/s", of: "COPY out and in",
		cases: []benchCase{
			{"COPY out and in", func(ctx context.Context) (float64, error) {
				return p.copyRows(ctx, o.rows)
			}},
			{"dump | load", func(ctx context.Context) (float64, error) {
				rate, most, err := p.dumpLoad(ctx, o.rows)
				peak = max(peak, most)
				return rate, err
			}},
		},
	}
	r, err := g.measure(ctx, o)
	if err != nil {
		return err
	}
	report(r)
	small, err := newPair(ctx, o.rows/10, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.close()) }()
	if _, peakOfTenth, err = small.dumpLoad(ctx, o.rows/10); err != nil {
		return err
	}
	report(single("dump-load", "peak memory", "MB", "a tenth of the rows", map[string]float64{
		"a tenth of the rows": peakOfTenth / 1e6, "all rows": peak / 1e6,
	}))
	return nil
}

// empty makes the replica as new.
func (p *pair) empty(ctx context.Context) error {
	_, err := p.copies.DB.ExecContext(ctx, "TRUNCATE order_copies, replica_revisions")
	return err
}

func (p *pair) copyRows(ctx context.Context, rows int) (float64, error) {
	if err := p.empty(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	r, w := io.Pipe()
	go func() {
		err := onPgConn(ctx, p.master, func(conn *pgconn.PgConn) error {
			_, err := conn.CopyTo(ctx, w, "COPY orders TO STDOUT")
			return err
		})
		_ = w.CloseWithError(err) // always nil
	}()
	err := onPgConn(ctx, p.copies, func(conn *pgconn.PgConn) error {
		_, err := conn.CopyFrom(ctx, r, "COPY order_copies FROM STDIN")
		return err
	})
	return float64(rows) / time.Since(start).Seconds(), errors.Join(err, p.filled(ctx, rows))
}

func (p *pair) filled(ctx context.Context, rows int) error {
	n, err := p.copies.NewSelect().Table("order_copies").Count(ctx)
	if err == nil && int(n) != rows {
		err = fmt.Errorf("the copy has %d rows, want %d", n, rows)
	}
	return err
}

func onPgConn(ctx context.Context, db *bun.DB, do func(*pgconn.PgConn) error) error {
	conn, err := db.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // back into the pool
	return conn.Raw(func(driverConn any) error {
		//nolint:forcetypeassert // database.Open runs on pgx
		return do(driverConn.(interface{ Conn() *pgx.Conn }).Conn().PgConn())
	})
}

func (p *pair) dumpLoad(ctx context.Context, rows int) (rate, peak float64, err error) {
	if err := p.empty(ctx); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	r, w := io.Pipe()
	stopSampling := samplePeak()
	go func() {
		_, err := operate.Dump(ctx, p.box, "order", w, operate.DumpOptions{})
		_ = w.CloseWithError(err) // always nil
	}()
	loaded, err := operate.Load(ctx, p.rep, r, operate.LoadOptions{})
	peak = stopSampling()
	if err == nil && loaded.Applied != int64(rows) {
		err = fmt.Errorf("loaded %+v, want %d applied", loaded, rows)
	}
	return float64(rows) / time.Since(start).Seconds(), peak, errors.Join(err, p.filled(ctx, rows))
}
