package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// MaxLanes is how many lanes there may be.
const MaxLanes = 1024

const (
	// changer is the id, which no relay has, of whoever changes the number of lanes: while it is
	// among the live relays, nobody's share of the lanes is more than none.
	changer = ""
	// changerTTL is how long relays stand still after a change that was killed or stopped. It may
	// run out while the lanes are changed: who took one then is found by replaceLanes.
	changerTTL = 4 * time.Second
	// maxRenumbered is how many unsent messages may be left for a change. Writers wait while they
	// change lanes.
	maxRenumbered = 2000
	lastLane      = 1<<15 - 1 // of a smallint
)

// LaneOwner is a lane and who publishes from it.
type LaneOwner struct {
	Lane int
	// Owner is a relay's id, empty if the lane is free.
	Owner string
	Epoch int64
	// Left is how long its lease runs, negative if it ran out and nobody took the lane.
	Left time.Duration
}

// LaneOwners lists the lanes.
func (q *Queue) LaneOwners(ctx context.Context) (owners []LaneOwner, err error) {
	rows, err := q.DB().QueryContext(ctx, "SELECT lane, coalesce(owner, ''), epoch, coalesce("+
		q.dialect.Micros("expires_at")+" - "+q.dialect.Micros(q.dialect.Now())+
		", 0) FROM ? ORDER BY lane", q.Table("outbox_lanes"))
	if err != nil {
		return nil, fmt.Errorf("list lanes: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var o LaneOwner
		var left int64
		if err := rows.Scan(&o.Lane, &o.Owner, &o.Epoch, &left); err != nil {
			return nil, fmt.Errorf("list lanes: %w", err)
		}
		o.Left = time.Duration(left) * time.Microsecond
		owners = append(owners, o)
	}
	return owners, rows.Err()
}

// SetLanes changes the number of lanes, while writers write and relays run: it waits until few
// messages are left, has the relays give back all lanes, so that nothing is in flight, and then
// moves what is left into the new lanes, in one short transaction that writers wait for. It tries
// until ctx ends, and then leaves everything as it was. said is told what it waits for.
//
// A writer whose transaction began before counts with the old number. It is refused, with an error
// that is a conflict (see Conflicted), and counts anew.
func (q *Queue) SetLanes(ctx context.Context, count int, said func(string)) (err error) {
	if count < 1 || count > MaxLanes {
		return fmt.Errorf("%d lanes: want 1 to %d", count, MaxLanes)
	}
	if now, err := q.lanes.Read(ctx, q.DB()); err != nil || now.Count == count {
		return err
	}
	if said == nil {
		said = func(string) {}
	}
	err = q.requireProtocol(ctx)
	if err == nil {
		err = q.drained(ctx, said)
	}
	if err != nil {
		return fmt.Errorf("set %d lanes: %w", count, err)
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if left := q.LeaveAll(ending, changer); err == nil {
			err = left
		}
	}()
	for pause := db.MinPause; ; pause = min(2*pause, db.MaxPause) {
		err := q.excluded(ctx)
		if err == nil {
			err = q.halted(ctx, said)
		}
		if err == nil {
			err = q.renumber(ctx, count)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || !passing(err):
			return fmt.Errorf("set %d lanes: %w", count, err)
		case errors.Is(err, errTaken):
			pause = db.MinPause
		default:
			said("waiting for " + db.HoldersOf(err))
			// The relays must not stand still for as long as that takes.
			err = q.LeaveAll(ctx, changer)
		}
		if pauseErr := db.Rest(ctx, pause); err != nil || pauseErr != nil {
			return fmt.Errorf("set %d lanes: %w", count, errors.Join(err, pauseErr))
		}
	}
}

// excluded finds out, before the relays stop, whether nobody would keep a change of the lanes
// waiting.
func (q *Queue) excluded(ctx context.Context) error {
	errFree := errors.New("free")
	err := q.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error {
		before, _ := q.dialect.renumber(q.Names(), 0, 0)
		if len(before) > 0 {
			if err := db.ExecAll(ctx, tx, before[:1]); err != nil {
				return err
			}
		}
		return errFree // nothing is to be changed
	})
	if errors.Is(err, errFree) {
		return nil
	}
	return err
}

// errTaken says that a relay which had not seen the change in time took lanes. It gives them back.
var errTaken = errors.New("a relay took lanes meanwhile")

// passing says that trying again may help.
func passing(err error) bool {
	return errors.Is(err, errTaken) || db.Passing(err)
}

// drained waits until few messages are left.
func (q *Queue) drained(ctx context.Context, said func(string)) error {
	return poll(ctx, func() (string, error) {
		st, err := q.Status(ctx)
		if err != nil || st.Unsent <= maxRenumbered {
			return "", err
		}
		return fmt.Sprintf("waiting for the relays: %d messages are unsent, %d may be", st.Unsent,
			maxRenumbered), nil
	}, said)
}

// hold takes, or keeps, all lanes from the relays.
func (q *Queue) hold(ctx context.Context) error {
	_, err := q.DB().ExecContext(ctx, "INSERT INTO ? (id, expires_at, ttl, protocol) VALUES (?, "+
		q.dialect.After(q.dialect.Now(), changerTTL)+", ?, ?)"+
		q.Upsert("id", "expires_at", "ttl", "protocol"),
		q.Table("outbox_relays"), changer, changerTTL.Microseconds(), protocol)
	if err != nil {
		return fmt.Errorf("hold the lanes: %w", err)
	}
	return nil
}

// halted holds the lanes and waits until no relay has one.
func (q *Queue) halted(ctx context.Context, said func(string)) error {
	return poll(ctx, func() (string, error) {
		if err := q.hold(ctx); err != nil {
			return "", err
		}
		if err := q.requireProtocol(ctx); err != nil {
			return "", err
		}
		st, err := q.Status(ctx)
		owned := st.LanesOwned + st.LanesAhead
		if err != nil || owned == 0 {
			return "", err
		}
		return fmt.Sprintf("waiting for the relays to give back %d lanes", owned), nil
	}, said)
}

// poll asks what is being waited for until that is nothing, and says it when it changes.
func poll(ctx context.Context, ask func() (string, error), said func(string)) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for before := ""; ; {
		waiting, err := ask()
		switch {
		case err != nil && ctx.Err() != nil && before != "":
			return fmt.Errorf("%w while %s", context.Cause(ctx), before)
		case err != nil || waiting == "":
			return err
		}
		if waiting != before {
			said(waiting)
		}
		before = waiting
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w while %s", context.Cause(ctx), waiting)
		}
	}
}
