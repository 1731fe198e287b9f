package converge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/operate"
)

const (
	// fillLook is how often it is looked for backfills to do.
	fillLook = time.Second
	// fillLease is for how long one is taken without a sign of life.
	fillLease = 10 * time.Second
	// maxFilling is how many one answerer does at the same time, each for another queue.
	maxFilling = 4
)

// backfills does what is asked for, as long as nobody else does it, until ctx ends.
func (a *Answerer) backfills(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxFilling)
	tick := time.NewTicker(fillLook)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		b, ok, err := a.registry.Take(ctx, "", rand.Text(), fillLease)
		a.say(ctx, "backfills", err)
		if ok {
			running.Go(func() {
				defer func() { <-places; a.lookForBackfills() }()
				_ = a.fill(ctx, b, nil) // the log has it
			})
			continue
		}
		<-places
		select {
		case <-tick.C:
		case <-a.asked:
		case <-ctx.Done():
		}
	}
}

// lookForBackfills has it looked at once.
func (a *Answerer) lookForBackfills() {
	select {
	case a.asked <- struct{}{}:
	default:
	}
}

// hearBackfill notes that a replica has nothing of a model, and asks for all of it.
func (a *Answerer) hearBackfill(ctx context.Context, body []byte) error {
	r, err := readAskedBackfill(body)
	if err != nil {
		return err
	}
	a.counts.requests.Add(1)
	known, err := a.knows(ctx, r.Queue, r.Model)
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("a backfill of %.40q for a replica that has not reported that it takes it",
			r.Model)
	}
	b, err := a.registry.Request(ctx, registry.Backfill{
		Queue: r.Queue, Model: r.Model, ID: r.ID, Filter: registry.All,
	})
	if err != nil {
		return err
	}
	if !b.Finished.IsZero() { // it has not heard so
		return a.tellBackfilled(ctx, b)
	}
	a.lookForBackfills()
	return nil
}

// knows says that a replica has reported that it takes a model, which this master has.
func (a *Answerer) knows(ctx context.Context, queue, model string) (bool, error) {
	replicas, _, err := a.registry.Replicas(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(replicas, func(r registry.Replica) bool {
		return r.Queue == queue && slices.Contains(a.own(r.Models), model)
	}), nil
}

// tellBackfilled says to a replica that all of a model is in its queue, before this.
func (a *Answerer) tellBackfilled(ctx context.Context, b registry.Backfill) error {
	body, err := json.Marshal(backfilled{
		head: head{Version: version, Kind: kindBackfilled}, Model: b.Model, ID: b.ID, Sent: b.Sent,
	})
	if err != nil {
		return fmt.Errorf("write that a backfill is over: %w", err)
	}
	return a.tell(ctx, b.Queue, b.Model, kindBackfilled, body)
}

// Backfill is what an operator asks for.
type Backfill struct {
	// Queue names the replica, Model what it is to have. Required.
	Queue, Model string
	// Filter selects the rows, see operate.ParseFilter. Default: all of them.
	Filter string
	// Rate is how many rows a second are sent at most. Default: as many as the replica takes without
	// delaying what changes meanwhile.
	Rate int
}

// BackfillProgress is how far a backfill is.
type BackfillProgress struct {
	// Sent rows are in the replica's queue. Bad ones cannot be sent; Error says why of the last one,
	// or why it does not go on.
	Sent, Bad int64
	// Total is how many there are about; -1 where nobody has counted them.
	Total int64
	Error string
	// Done says that it is over.
	Done bool
}

// OrderBackfill notes a backfill for whoever answers replicas. One that is under way with the same
// filter goes on. The error says where the replica is unknown, and its queue is not on the broker.
func (a *Answerer) OrderBackfill(ctx context.Context, b Backfill) error {
	if b.Filter == "" {
		b.Filter = registry.All
	}
	err := a.checkBackfill(ctx, b)
	if err == nil {
		_, err = a.registry.Order(ctx, registry.Backfill{
			Queue: b.Queue, Model: b.Model, ID: rand.Text(), Filter: b.Filter, Rate: b.Rate,
		})
	}
	if err != nil {
		return fmt.Errorf("converge: %w", err)
	}
	a.lookForBackfills()
	return nil
}

func (a *Answerer) checkBackfill(ctx context.Context, b Backfill) error {
	var errs []error
	if !names.MatchString(b.Queue) {
		errs = append(errs, fmt.Errorf(
			"field Queue is %.40q: want the name of a replica's queue", b.Queue))
	}
	if b.Rate < 0 {
		errs = append(errs, fmt.Errorf(
			"field Rate is %d: want rows a second, or 0 for as many as go", b.Rate))
	}
	filter, err := operate.ParseFilter(b.Filter)
	if err == nil {
		_, err = filter.OnMaster(a.of, b.Model)
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	known, err := a.knows(ctx, b.Queue, b.Model)
	if err != nil || known {
		return err
	}
	return a.requireQueue(ctx, b.Queue)
}

// requireQueue fails where the broker has no queue for a replica that has not reported.
func (a *Answerer) requireQueue(ctx context.Context, name string) (err error) {
	q, err := a.broker.Queue(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	there, err := q.HasQueue(ctx)
	if err == nil && !there {
		err = fmt.Errorf("the replica %q has not reported that it takes the model, and the broker has "+
			"no queue of that name: start it first, or see relay replicas list for its name", name)
	}
	return err
}

// FollowBackfill does a backfill that was ordered, or watches whoever does, until it is over.
// progress is called about once a second. When ctx ends, others go on.
func (a *Answerer) FollowBackfill(
	ctx context.Context, queue, model string, progress func(BackfillProgress),
) (now BackfillProgress, err error) {
	tick := time.NewTicker(fillLook)
	defer tick.Stop()
	for {
		b, found, err := a.registry.Backfill(ctx, queue, model)
		if err != nil {
			return now, fmt.Errorf("converge: %w", err)
		}
		if !found {
			return now, fmt.Errorf("converge: the backfill of %s for %s was cancelled", model, queue)
		}
		if now = progressOf(b); progress != nil {
			progress(now)
		}
		if now.Done {
			return now, nil
		}
		// An earlier one of the queue comes first, whoever asked for it.
		b, ok, err := a.registry.Take(ctx, queue, rand.Text(), fillLease)
		if err != nil {
			return now, fmt.Errorf("converge: %w", err)
		}
		if ok {
			tell := func(b registry.Backfill) {
				if progress != nil && b.Model == model {
					progress(progressOf(b))
				}
			}
			if err := a.fill(ctx, b, tell); err != nil {
				return now, fmt.Errorf("converge: %w", err)
			}
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return now, ctx.Err()
		}
	}
}

// CancelBackfill ends a backfill that is under way, and says whether there was one.
func (a *Answerer) CancelBackfill(ctx context.Context, queue, model string) (was bool, err error) {
	if was, err = a.registry.Cancel(ctx, queue, model); err != nil {
		return false, fmt.Errorf("converge: %w", err)
	}
	return was, nil
}

func progressOf(b registry.Backfill) BackfillProgress {
	return BackfillProgress{
		Sent: b.Sent, Bad: b.Bad, Total: b.Total, Error: b.Error, Done: !b.Finished.IsZero(),
	}
}

// shortened is an error as the table keeps it: it may quote a row.
func shortened(err error) string {
	const most = 500
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "")
	if len(text) <= most {
		return text
	}
	for text = text[:most]; !utf8.ValidString(text); {
		text = text[:len(text)-1]
	}
	return text + "…"
}
