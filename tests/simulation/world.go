package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/queue/memory"
	"github.com/cqrsync/cqrsync/relay"
)

// world is one course of a schedule.
type world struct {
	schedule *schedule
	database *memory.Database
	checker  *checker
	handover *handover.Handover
	began    time.Time
	running  sync.WaitGroup
	mending  atomic.Int64 // who puts rows by hand, and writes then
	log      *slog.Logger
}

// course is what came of a schedule.
type course struct {
	faults []string
	trace  uint64
	events int
	wait   time.Duration // the longest for a neighbour
}

// run runs a schedule from its beginning to its end, in a bubble of testing/synctest.
func run(s *schedule, log *slog.Logger) course {
	w := &world{
		schedule: s, database: memory.New(s.lanes), checker: newChecker(log), began: time.Now(), log: log,
	}
	if s.handover {
		w.handover = handover.New()
	}
	w.write()
	w.hold()
	w.putByHand()
	w.goBack()
	ctx, cancel := context.WithCancel(context.Background())
	for slot := range s.relays {
		w.running.Go(func() { w.keep(ctx, slot) })
	}
	pause(troubled)
	for !w.drained() && time.Since(w.began) < troubled+patience {
		pause(20 * time.Millisecond)
	}
	cancel()
	w.running.Wait()
	for _, m := range w.database.Unsent() {
		w.checker.fault("P5: %s/%d is still in the outbox", m.Key, m.Revision)
	}
	patient := time.Duration(0)
	if s.neighbourly {
		patient = longestWait
	}
	w.checker.ends(w.database.DeadLetters(), patient, w.suffers)
	return course{w.checker.faults, w.checker.trace, w.checker.events, w.checker.wait}
}

// drained says that nothing is left to be sent, and nobody writes.
func (w *world) drained() bool {
	writers, _, _ := w.database.Writers(context.Background())
	return time.Since(w.began) > troubled*3/2 && w.mending.Load() == 0 && len(writers.Open) == 0 &&
		len(w.database.Unsent()) == 0
}

// trouble says that faults happen.
func (w *world) trouble() bool { return time.Since(w.began) < troubled }

// away says that the database cannot be reached by anybody.
func (w *world) away() bool {
	const length = 400 * time.Millisecond
	part := int(time.Since(w.began) / length)
	return w.trouble() && happens(w.schedule.dice("outage", part), w.schedule.outages)
}

// poisonous says that the broker refuses what a message says.
func (w *world) poisonous(m *envelope.Message) bool {
	return happens(w.schedule.dice("poison "+m.Key, int(m.Revision)), w.schedule.poison)
}

// suffers says that a key has messages that the broker refuses, or that somebody
// holds, for which it waits with reason.
func (w *world) suffers(key string) bool {
	for revision := range int64(200) {
		if w.poisonous(&envelope.Message{Key: key, Revision: revision}) {
			return true
		}
	}
	return w.schedule.held > 0
}

// keep keeps a relay running, one process after another, until ctx ends.
func (w *world) keep(ctx context.Context, slot int) {
	var before *process
	for life := 0; ctx.Err() == nil; life++ {
		r := w.schedule.dice(fmt.Sprint("life ", slot), life)
		p := &process{
			Queue: w.database.Connect(), world: w, name: fmt.Sprintf("%d.%d ", slot, life),
			counts: map[string]int{}, life: life, well: w.schedule.neighbourly,
		}
		p.id = p.name
		if happens(r, w.schedule.sameName) {
			p.id = fmt.Sprint(slot)
			if before != nil && before.id == p.id {
				before.replace()
			}
		}
		before = p
		w.live(ctx, p, slot)
	}
}

// live runs one process.
func (w *world) live(ctx context.Context, p *process, slot int) {
	s := w.schedule
	r := s.dice("end of "+p.name, 0)
	rel, err := relay.Over(p, publisher{p}, relay.Config{
		ID: p.id, BatchSize: s.batchOf(slot), PollInterval: 100 * time.Millisecond,
		LeaseTTL: ttl, MaxAttempts: s.attempts,
		RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond, ShutdownTimeout: ttl,
		Handover: w.handoverOf(slot), Logger: w.log,
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = rel.Run(ctx) // a dead or lost database is part of the schedule
	}()
	if end := w.endOf(p, r, slot); end != nil {
		select {
		case <-time.After(between(r, w.shortest(p), w.shortest(p)+troubled/2)):
			if w.trouble() {
				end()
				cancel()
			}
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	cancel()
	<-ended
	pause(between(r, 1, ttl))
}

// shortest is how long a process lives at least. Where waits are measured, neighbours die one at a
// time: each may cost a lease.
func (w *world) shortest(p *process) time.Duration {
	if w.schedule.neighbourly && p.life > 0 {
		return 5 * ttl / 2
	}
	return 10 * time.Millisecond
}

// endOf draws how a process ends before its time, nil if it does not.
func (w *world) endOf(p *process, r interface{ IntN(int) int }, slot int) func() {
	stops := func() {}
	switch n := r.IntN(1000); {
	case w.schedule.neighbourly && slot > 0 && n < 400:
		return func() { p.stand(3 * ttl) } // and ends when it goes on
	case w.schedule.neighbourly && slot > 0:
		return p.kill
	case n < w.schedule.crash:
		return p.kill
	case n < w.schedule.crash+w.schedule.stop:
		return stops
	}
	return nil
}

func (w *world) handoverOf(slot int) relay.Handover {
	if slot == 0 && w.handover != nil {
		return w.handover
	}
	return nil
}

// pause lets virtual time pass.
func pause(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the time of synctest does not pass otherwise
}
