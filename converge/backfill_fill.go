package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/transport"
)

// filling is a backfill in work.
type filling struct {
	registry.Backfill

	a      *Answerer
	known  bool // the replica has reported
	broker Queue
	pace   pace
	tell   func(registry.Backfill)
	where  func(*bun.SelectQuery) *bun.SelectQuery
	moved  time.Time // when it was noted last how far it is
}

// errNotMine says that somebody else does a backfill by now, or that it was cancelled.
var errNotMine = errors.New("the backfill is another's by now, or was cancelled")

// fill does a backfill that was taken, and tries again whatever goes wrong, until it is over, not
// the caller's any more, or ctx ends, which is the only error.
func (a *Answerer) fill(
	ctx context.Context, b registry.Backfill, tell func(registry.Backfill),
) error {
	f := &filling{Backfill: b, a: a, tell: tell}
	log := a.log.With("queue", b.Queue, "model", b.Model)
	log.Info("a backfill begins, or goes on", "sent", b.Sent)
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier: 2, MaxInterval: fillLease / 6,
	}
	for said := false; ; {
		sent := f.Sent
		err := f.fill(ctx)
		switch {
		case err == nil:
			log.Info("a backfill is over", "sent", f.Sent, "bad", f.Bad)
			return nil
		case errors.Is(err, errNotMine):
			log.Info("a backfill is left to others", "reason", err)
			return nil
		case ctx.Err() != nil:
			released, cancel := context.WithTimeout(context.WithoutCancel(ctx), fillLease/6)
			defer cancel()
			if err := a.registry.Release(released, f.Backfill); err != nil {
				log.Info("a backfill goes on when its lease is over", "error", err)
			}
			return ctx.Err()
		case !said:
			log.Warn("a backfill has trouble, and tries again", "error", err)
			said = true
		}
		if f.Sent > sent {
			pause.Reset()
		}
		f.Error = shortened(err)
		if err := f.note(ctx); errors.Is(err, errNotMine) {
			return nil
		}
		sleep(ctx, pause.NextBackOff())
	}
}

// fill sends what has not been sent yet, and ends the backfill.
func (f *filling) fill(ctx context.Context) (err error) {
	if err := f.prepare(ctx); err != nil {
		return err
	}
	// An error means: once more, which does no harm.
	defer func() { err = errors.Join(err, f.broker.Close()) }()
	if err := f.sendAll(ctx); err != nil {
		return err
	}
	if f.known && f.Whole() {
		if err := f.a.tellBackfilled(ctx, f.Backfill); err != nil {
			return err
		}
	}
	mine, err := f.a.registry.Finish(ctx, f.Backfill)
	if err == nil && !mine {
		err = errNotMine
	}
	if err == nil && f.known {
		err = f.a.verifySoon(ctx, f.Queue, f.Model)
	}
	return err
}

// sendAll sends all rows that have not been sent yet.
func (f *filling) sendAll(ctx context.Context) error {
	pages, stop := f.pages(ctx)
	defer stop()
	for page := range pages {
		for _, row := range page.bad {
			f.bad(row.pk, row.err)
		}
		if page.err != nil {
			return page.err
		}
		if err := f.send(ctx, page.rows); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// verifySoon has the replica compared with the master now. What was sent is in its queue.
func (a *Answerer) verifySoon(ctx context.Context, queue, model string) error {
	return a.registry.Verify(ctx, queue, model, func(now time.Time, v *registry.Verification) bool {
		v.Asked = now
		return true
	})
}

// prepare makes sure of the queue, and counts the rows.
func (f *filling) prepare(ctx context.Context) (err error) {
	filter, err := operate.ParseFilter(f.Filter)
	if err == nil {
		f.where, err = filter.OnMaster(f.a.of, f.Model)
	}
	if err == nil {
		f.known, err = f.a.knows(ctx, f.Queue, f.Model)
	}
	if err == nil {
		if !f.known {
			err = f.a.requireQueue(ctx, f.Queue)
		}
	}
	if err == nil {
		// What is sent to a queue that is not bound to it is lost. If it has vanished, so has what was
		// sent: then the backfill is nobody's, and begins anew.
		err = f.a.keepQueue(ctx, f.Queue, []string{f.Model}, f.After != nil)
	}
	if err == nil && f.Total < 0 {
		f.Total = f.a.count(ctx, f.Model, f.where)
	}
	if err != nil {
		return err
	}
	if err := f.note(ctx); err != nil {
		return err
	}
	if f.broker, err = f.a.broker.Queue(f.Queue); err != nil {
		return err
	}
	f.pace = pace{
		waiting: f.broker.Waiting, most: f.a.config.BackfillWaiting, limit: f.Rate, drawn: f.a.drawn,
	}
	return nil
}

// countFor is how long rows are counted. Of more than can be counted in that time nobody says how
// many there are.
const countFor = 10 * time.Second

// count returns how many rows a backfill is about, -1 where that takes too long.
func (a *Answerer) count(
	ctx context.Context, model string, where func(*bun.SelectQuery) *bun.SelectQuery,
) int64 {
	table, err := a.box.Model(model)
	if err != nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(ctx, countFor)
	defer cancel()
	query := a.box.Own().DB().NewSelect().Model(table.ZeroIface)
	if where != nil {
		query = where(query)
	}
	n, err := query.Count(ctx)
	if err != nil {
		return -1
	}
	return n
}

const (
	// fillPage is how many rows are read at once.
	fillPage = 2000
	// noteEvery is how often it is noted how far a backfill is.
	noteEvery = time.Second
)

// send sends a page of rows, and notes that, now and then.
func (f *filling) send(ctx context.Context, page []boxed.Instance) error {
	incarnation, err := f.a.outbox.Incarnation(ctx)
	if err != nil {
		return err
	}
	batch := make([]transport.Outgoing, 0, len(page))
	rows := make([]boxed.Instance, 0, len(page))
	for _, instance := range page {
		out, err := stateMessage(boxed.State{Instance: instance}, f.Model, f.Queue, incarnation.ID)
		if err != nil {
			f.bad(instance.PK, err)
			continue
		}
		batch, rows = append(batch, out), append(rows, instance)
	}
	for len(batch) > 0 {
		n, err := f.pace.next(ctx, f.alive)
		if err != nil {
			return err
		}
		n = min(n, len(batch))
		if err := f.publish(ctx, batch[:n], rows[:n]); err != nil {
			return err
		}
		f.pace.sent(n)
		batch, rows = batch[n:], rows[n:]
	}
	if len(page) > 0 {
		f.After = page[len(page)-1].PK
	}
	return f.alive(ctx)
}

// publish sends some rows until the broker has all of them that it can take.
func (f *filling) publish(
	ctx context.Context, batch []transport.Outgoing, rows []boxed.Instance,
) error {
	var trouble error
	sent, bad := int64(0), []int{}
	errs := f.a.publisher.PublishBatch(ctx, batch)
	for i, err := range errs {
		switch {
		case err == nil:
			sent++
		case errors.Is(err, transport.ErrUnavailable), transport.AtDestination(err), ctx.Err() != nil:
			trouble = err
		default:
			bad = append(bad, i)
		}
	}
	if trouble != nil { // all of them again: the replica's gate knows those that it has
		return fmt.Errorf("publish: %w", trouble)
	}
	for _, i := range bad {
		f.bad(rows[i].PK, errs[i])
	}
	f.Sent += sent
	f.After = rows[len(rows)-1].PK
	return nil
}

// bad counts a row that cannot be sent.
func (f *filling) bad(pk json.RawMessage, err error) {
	f.Bad++
	err = fmt.Errorf("key %.100s: %w", pk, err)
	f.Error = shortened(err)
	f.a.log.Error("a row cannot be sent to a replica",
		"queue", f.Queue, "model", f.Model, "error", err)
}

// alive notes how far it is, unless it has just done so, and fails where it is not the caller's.
func (f *filling) alive(ctx context.Context) error {
	if time.Since(f.moved) < noteEvery {
		return nil
	}
	return f.note(ctx)
}

func (f *filling) note(ctx context.Context) error {
	mine, err := f.a.registry.Move(ctx, f.Backfill, fillLease)
	if err != nil {
		return err
	}
	if !mine {
		return errNotMine
	}
	f.moved = time.Now()
	if f.tell != nil {
		f.tell(f.Backfill)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
