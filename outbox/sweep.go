package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
)

// sweepBatch is how many marks one transaction of a sweep takes.
const sweepBatch = 1000

// Sweep sends what triggers noted of writes by others, which no session of Go could send with their
// commit, until nothing is left. It returns how many keys it sent something of. Several processes
// may sweep at once.
//
// A message holds the state at the sweep: what several transactions did to a key meanwhile is one
// message, and the order of revisions is that of the states all the same.
func (b *Box) Sweep(ctx context.Context) (swept int, err error) {
	if err := b.ready(ctx); err != nil {
		return 0, err
	}
	for {
		n, err := b.sweepOnce(ctx)
		swept += n
		if err != nil || n == 0 {
			return swept, err
		}
	}
}

func (b *Box) sweepOnce(ctx context.Context) (n int, err error) {
	models := b.models() // also one whose triggers were taken away: its marks are still to be sent
	if c := b.captures.Load(); len(models) == 0 || c == nil || !c.keeps {
		return 0, nil
	}
	ids := make([]string, len(models))
	for i, m := range models {
		ids[i] = m.id
	}
	s := newSession(b)
	if b.handover.Load() != nil {
		s.appended = &handover.Appended{}
	}
	var before time.Time
	err = b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		marks, err := b.capture().Sweep(ctx, tx, ids, sweepBatch)
		if err != nil {
			return err
		}
		n = len(marks)
		if err := s.addMarks(ctx, tx, marks); err != nil {
			return err
		}
		for _, keys := range s.dirty { // whether a row is there now, says the read
			for _, d := range keys {
				d.present = false
			}
		}
		err = s.flush(ctx, tx)
		before = time.Now()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("outbox: sweep: %w", err)
	}
	if s.wrote {
		b.committed(s.appended.Offer(before))
	}
	return n, nil
}

// RunSweep sweeps until ctx ends: again as soon as every has passed. It returns nil then, and an
// error where sweeping fails for another reason than that others were in its way. every is how late
// a message of another program may be; a look at an empty table is cheap. Default: 200 ms for 0.
func (b *Box) RunSweep(ctx context.Context, every time.Duration) error {
	if every <= 0 {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		n, err := b.sweepWhole(ctx)
		if err != nil && !db.Conflicted(err) && ctx.Err() == nil {
			return err
		}
		if n > 0 && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// finishing is how long a batch may take that has begun when the sweep is to end.
const finishing = 10 * time.Second

// sweepWhole sweeps one batch to its end, also when ctx ends meanwhile: a transaction that is cut
// off may hold its marks for a while at the server, where the next sweep does not see them.
func (b *Box) sweepWhole(ctx context.Context) (int, error) {
	if err := b.ready(ctx); err != nil {
		return 0, err
	}
	whole, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishing, stop) })()
	return b.sweepOnce(whole)
}

// unsweptFor is how long a note may wait before Check asks who sweeps.
const unsweptFor = time.Minute

// unswept says that notes wait for a sweep, and nobody seems to make one.
func (b *Box) unswept(ctx context.Context) ([]*Finding, error) {
	keeps, err := b.capture().Keeps(ctx)
	if err != nil || !keeps {
		return nil, err
	}
	id, waits, err := b.capture().Unswept(ctx)
	if err != nil || waits < unsweptFor {
		return nil, err
	}
	return []*Finding{{
		FoundUnswept, id, b.prefix + "outbox_dirty",
		fmt.Sprintf("what triggers noted has waited for %s, so nobody seems to sweep",
			waits.Round(time.Second)),
		"call Box.RunSweep in a service, or relay run --config beside it",
	}}, nil
}
