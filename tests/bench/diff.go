package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// masterOrder and copiedOrder are the table that is compared and
// copied, as master and replica have it.
type masterOrder struct {
	bun.BaseModel `bun:"table:orders"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

type copiedOrder struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

// pair is a master and a replica of rows rows.
type pair struct {
	master, copies *bun.DB
	box            *outbox.Box
	rep            *replica.Replica
	drop           []func() error
}

func newPair(ctx context.Context, rows int, copied bool) (p *pair, err error) {
	p = &pair{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for _, side := range []**bun.DB{&p.master, &p.copies} {
		db, drop, err := openPostgres(ctx)
		if err != nil {
			return p, err
		}
		*side = db
		p.drop = append(p.drop, drop)
	}
	if p.box, err = outbox.New(p.master, outbox.Config{}); err != nil {
		return p, err
	}
	if p.rep, err = replica.New(p.copies, replica.Config{
		Queue: "bench", Batch: 5000, Workers: 2, // as the relay's load
		Logger: slog.New(slog.DiscardHandler),
	}); err != nil {
		return p, err
	}
	if err := errors.Join(
		outbox.Register[masterOrder](p.box, "order"), replica.Register[copiedOrder](p.rep, "order"),
		p.box.Migrate(ctx), p.rep.Migrate(ctx),
		createTable(ctx, p.master, (*masterOrder)(nil)), createTable(ctx, p.copies, (*copiedOrder)(nil)),
	); err != nil {
		return p, err
	}
	if err := fill(ctx, p.master, "orders", "outbox_revisions", rows); err != nil || !copied {
		return p, err
	}
	return p, fill(ctx, p.copies, "order_copies", "replica_revisions", rows)
}

func createTable(ctx context.Context, db *bun.DB, model any) error {
	_, err := db.NewCreateTable().Model(model).Exec(ctx)
	return err
}

// fill makes rows 1 to n with their ledger, without going through capture:
// what is measured is reading them.
func fill(ctx context.Context, db *bun.DB, table, ledger string, n int) error {
	for _, statement := range []string{
		fmt.Sprintf(`INSERT INTO %s SELECT i, 'customer ' || i, 'new', i * 100,
			'a note of about the length that notes have, because rows of a few bytes flatter everybody alike'
			FROM generate_series(1, %d) i`, table, n),
		fmt.Sprintf(`INSERT INTO %s (model, key, revision, updated_at)
			SELECT 'order', i::text, i %% 7, '2026-11-22 12:00:00+00'
			FROM generate_series(1, %d) i`, ledger, n),
		"VACUUM ANALYZE " + table, "VACUUM ANALYZE " + ledger,
	} {
		if _, err := db.DB.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("fill %s: %w", table, err)
		}
	}
	return nil
}

func (p *pair) close() error {
	var errs []error
	for _, drop := range p.drop {
		errs = append(errs, drop())
	}
	return errors.Join(errs...)
}

// benchDiff compares a master and a replica that are equal, and that differ in ten keys, with what
// a plain loop over both ledgers takes.
func benchDiff(ctx context.Context, o options, report func(result)) (err error) {
	p, err := newPair(ctx, o.rows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var bytes, peak, peakOfTenth float64
	for _, differing := range []int{0, 10} {
		if err := p.spoil(ctx, o.rows, differing); err != nil {
			return err
		}
		g := group{
			bench: "diff", name: fmt.Sprintf("%d rows, %d differing", o.rows, differing),
			unit: "rows/s", of: "plain loop",
			cases: []benchCase{
				{"plain loop", func(ctx context.Context) (float64, error) {
					return p.plainLoop(ctx, o.rows, differing)
				}},
				{"diff-master | diff-replica", func(ctx context.Context) (float64, error) {
					rate, n, most, err := p.diff(ctx, o.rows, differing)
					bytes, peak = n, max(peak, most)
					return rate, err
				}},
			},
		}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
	}
	small, err := newPair(ctx, o.rows/10, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.close()) }()
	if _, _, peakOfTenth, err = small.diff(ctx, o.rows/10, 0); err != nil {
		return err
	}
	report(single("diff", "bytes through the pipe", "bytes", "per row", map[string]float64{
		"per row": bytes / float64(o.rows), "all": bytes,
	}))
	report(single("diff", "peak memory", "MB", "a tenth of the rows", map[string]float64{
		"a tenth of the rows": peakOfTenth / 1e6, "all rows": peak / 1e6,
	}))
	return nil
}

// spoil makes so many keys of the replica differ: a row that is
// missing, and revisions that are behind.
func (p *pair) spoil(ctx context.Context, rows, n int) error {
	for i := range n {
		id := (i + 1) * rows / (n + 1)
		statement := fmt.Sprintf("UPDATE replica_revisions "+
			"SET revision = -1 + revision * 0 WHERE key = '%d'", id)
		if i%2 == 0 {
			statement = fmt.Sprintf("UPDATE replica_revisions "+
				"SET revision = revision + 3, updated_at = '2026-11-21' WHERE key = '%d'", id)
		}
		if _, err := p.copies.DB.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// plainLoop reads key and revision on both sides, in the order of keys, and counts the differences.
func (p *pair) plainLoop(ctx context.Context, rows, differing int) (float64, error) {
	start := time.Now()
	left, err := p.master.DB.QueryContext(ctx,
		"SELECT key, revision FROM outbox_revisions WHERE model = 'order' ORDER BY key")
	if err != nil {
		return 0, err
	}
	defer func() { _ = left.Close() }() // errors surface in Err
	right, err := p.copies.DB.QueryContext(ctx,
		"SELECT key, revision FROM replica_revisions WHERE model = 'order' ORDER BY key")
	if err != nil {
		return 0, err
	}
	defer func() { _ = right.Close() }()
	found, seen := 0, 0
	for left.Next() && right.Next() {
		var key, otherKey string
		var revision, other int64
		if err := errors.Join(left.Scan(&key, &revision), right.Scan(&otherKey, &other)); err != nil {
			return 0, err
		}
		seen++
		if key != otherKey || revision != other {
			found++
		}
	}
	if err := errors.Join(left.Err(), right.Err()); err != nil {
		return 0, err
	}
	if seen != rows || found != differing {
		return 0, fmt.Errorf("the plain loop saw %d rows and %d differences, want %d and %d",
			seen, found, rows, differing)
	}
	return float64(rows) / time.Since(start).Seconds(), nil
}

// diff runs the two stages as a pipe does. Differences are looked at
// twice, without a pause between.
func (p *pair) diff(
	ctx context.Context, rows, differing int,
) (rate, bytes, peak float64, err error) {
	start := time.Now()
	r, w := io.Pipe()
	counted := &counter{w: w}
	stopSampling := samplePeak()
	go func() {
		_, err := operate.DiffMaster(ctx, p.box, "order", counted, operate.DiffMasterOptions{})
		_ = w.CloseWithError(err) // always nil
	}()
	found, err := operate.DiffReplica(ctx, p.rep, r, io.Discard, operate.Options{})
	peak = stopSampling()
	if err == nil && (found.Compared != int64(rows) || found.Differing != int64(differing)) {
		err = fmt.Errorf("the diff compared %d rows and found %d differences, want %d and %d",
			found.Compared, found.Differing, rows, differing)
	}
	return float64(rows) / time.Since(start).Seconds(), float64(counted.n.Load()), peak, err
}

type counter struct {
	w io.Writer
	n atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// samplePeak watches how much memory the heap's objects take, garbage included;
// stop returns the most there was.
func samplePeak() (stop func() float64) {
	done, result := make(chan struct{}), make(chan float64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		var most uint64
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-ticker.C:
			case <-done:
				result <- float64(most)
				return
			}
		}
	}()
	return func() float64 { close(done); return <-result }
}

// single is a group of values that were measured on the way.
func single(bench, name, unit, of string, values map[string]float64) result {
	r := result{
		group:  group{bench: bench, name: name, unit: unit, of: of},
		values: map[string][]float64{},
	}
	r.cases = append(r.cases, benchCase{name: of})
	for name, value := range values {
		r.values[name] = []float64{value}
		if name != of {
			r.cases = append(r.cases, benchCase{name: name})
		}
	}
	return r
}
