package replica

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
)

// Master is an incarnation of the master of a model: its database, on one course of its history. A
// master that went back to an earlier state, to a backup or to a standby that was behind, goes on
// as another one.
type Master struct {
	// Incarnation is what its messages say; empty for masters that do not say, as those of
	// django-cqrs.
	Model, Incarnation string
	// First and Last are when messages of it came, by the clock of the replica's database.
	First, Last time.Time
	// Returns counts the messages that it wrote after a later incarnation had come. Where there are
	// any, two masters write the model.
	Returns int64
	// Overtaken counts the messages of it that were refused as stale though they are later than
	// what the replica has: the master went back, and counts revisions again that the replica
	// knows.
	Overtaken int64
	// Current says that no other incarnation came later, Rival that this one goes on beside a later
	// one: it wrote in the last ten minutes.
	Current, Rival bool
}

// Masters returns the incarnations of masters that messages came from, for each model oldest first.
// What this process has seen in the last half minute may be missing.
func (r *Replica) Masters(ctx context.Context) ([]Master, error) {
	if r.tables == nil {
		return nil, nil
	}
	noted, now, err := r.tables.Masters(ctx)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	masters := make([]Master, len(noted))
	for i, m := range noted {
		masters[i] = Master{
			Model: m.Model, Incarnation: m.Incarnation, First: m.First, Last: m.Last,
			Returns: m.Returns, Overtaken: m.Overtaken,
			Current: i == len(noted)-1 || noted[i+1].Model != m.Model,
			Rival:   m.Returns > 0 && now.Sub(m.Last) < rivalFor,
		}
	}
	return masters, nil
}

const (
	// noteEvery is how often it is noted that messages came.
	noteEvery = 30 * time.Second
	// noteAtMost is how often something new is.
	noteAtMost = 200 * time.Millisecond
	// handoverTime is how long an incarnation may go on beside the next one: what its relay had in
	// its hands.
	handoverTime = 10 * time.Second
	noteTimeout  = 10 * time.Second
	// rivalFor is how long an incarnation that went on counts as one that does.
	rivalFor = 10 * time.Minute
)

// recallMasters learns what was noted before, so that the first message is judged by it.
func (e *engine) recallMasters(ctx context.Context) {
	if e.tables == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	noted, now, err := e.tables.Masters(ctx)
	if err != nil {
		e.log.Warn("cannot read which masters messages came from", "error", err)
		return
	}
	e.learn(noted, now)
}

// watchMasters notes where messages come from, and says what is wrong with it, until ctx ends.
func (e *engine) watchMasters(ctx context.Context) {
	for {
		if err := e.noteMasters(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("cannot note which masters messages come from", "error", err)
		}
		if !pauseFor(ctx, noteAtMost) {
			break
		}
		timer := time.NewTimer(noteEvery)
		select {
		case <-timer.C:
		case <-e.origins.news:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err := e.noteMasters(ctx); err != nil {
		e.log.Warn("cannot note which masters messages came from", "error", err)
	}
}

// pauseFor returns false when ctx ends first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// noteMasters writes what this process has heard, and learns what others have.
func (e *engine) noteMasters(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	before, now, err := e.tables.Masters(ctx)
	if err != nil {
		return err
	}
	e.learn(before, now)
	var heard []*origin
	var rows []applied.Master
	for _, from := range e.origins.all() {
		m := applied.Master{
			Model: from.model, Incarnation: from.incarnation,
			Returns: from.returns.Load(), Overtaken: from.overtaken.Load(),
		}
		if !from.heard.Swap(false) && m.Returns+m.Overtaken == 0 {
			continue
		}
		m.Clock = from.clock.at(elapsed())
		heard, rows = append(heard, from), append(rows, m)
	}
	if len(rows) == 0 {
		return nil
	}
	if err := e.tables.NoteMasters(ctx, rows); err != nil {
		for _, from := range heard {
			from.heard.Store(true)
		}
		return err
	}
	for i, from := range heard {
		from.returns.Add(-rows[i].Returns)
		from.overtaken.Add(-rows[i].Overtaken)
	}
	after, now, err := e.tables.Masters(ctx)
	if err != nil {
		return err
	}
	e.learn(after, now)
	e.sayMasters(before, after)
	return nil
}

// learn takes over what the database has of the incarnations. All its times are by one clock, so
// what has passed since then is known, by whatever clock.
func (e *engine) learn(noted []applied.Master, now time.Time) {
	here := elapsed()
	for _, m := range noted {
		if e.models[m.Model] == nil {
			continue
		}
		from, _ := e.origins.of(m.Model, m.Incarnation)
		if m.Clock.IsZero() {
			continue
		}
		from.clock.sees(m.Clock.Add(max(now.Sub(m.Last), 0)), here)
		if next, found := e.nextAfter(noted, m); found && from.livesAfter.Load() == 0 {
			from.livesAfter.Store(m.Clock.Add(next.First.Sub(m.Last) + handoverTime).UnixMicro())
		}
	}
}

// nextAfter is the incarnation that came after one.
func (e *engine) nextAfter(
	noted []applied.Master, m applied.Master,
) (next applied.Master, found bool) {
	for _, n := range noted {
		if n.Model == m.Model && n.Incarnation != "" && m.Incarnation != "" && e.cameAfter(n, m) &&
			(!found || n.First.Before(next.First)) {
			next, found = n, true
		}
	}
	return next, found
}

// cameAfter says that one incarnation came after another one. Two that were noted at once did so in
// the order in which they were heard of, or in one that nobody knows.
func (e *engine) cameAfter(n, m applied.Master) bool {
	const atOnce = time.Second
	if apart := n.First.Sub(m.First); apart.Abs() > atOnce {
		return apart > 0
	}
	first, _ := e.origins.of(m.Model, m.Incarnation)
	second, _ := e.origins.of(n.Model, n.Incarnation)
	earlier, later := first.first.Load(), second.first.Load()
	return earlier != 0 && later > earlier
}

// sayMasters logs what is new and wrong, once.
func (e *engine) sayMasters(before, after []applied.Master) {
	returns := make(map[lineage]int64, len(before))
	for _, m := range before {
		returns[lineage{m.Model, m.Incarnation}] = m.Returns
	}
	for i, m := range after {
		if e.models[m.Model] == nil || m.Incarnation == "" {
			continue
		}
		log := e.log.With("model", m.Model, "incarnation", m.Incarnation)
		_, had := returns[lineage{m.Model, m.Incarnation}]
		if i > 0 && after[i-1].Model == m.Model && after[i-1].Incarnation != "" && !had {
			log = log.With("before", after[i-1].Incarnation)
			e.counts.changes.Add(1)
			if sameDatabase(m.Incarnation, after[i-1].Incarnation) {
				log.Warn("the master's database failed over or went back to an earlier state: " +
					"what it lost may be newer here, and its changes refused; compare with relay " +
					"diff")
			} else {
				log.Warn("another master sends this model: if both run, give one another CQRS id " +
					"or exchange; if the master moved, compare with relay diff")
			}
		}
		from, _ := e.origins.of(m.Model, m.Incarnation)
		if m.Returns > returns[lineage{m.Model, m.Incarnation}] && !from.saidReturns.Swap(true) {
			log.Error("two masters write this model: this incarnation goes on though a later one " +
				"came; stop one, or give it another CQRS id or exchange, then compare with relay " +
				"diff")
		}
	}
}

// sameDatabase says that two incarnations have the same beginning.
func sameDatabase(a, b string) bool {
	first, _, _ := strings.Cut(a, "-")
	second, _, _ := strings.Cut(b, "-")
	return first == second
}
