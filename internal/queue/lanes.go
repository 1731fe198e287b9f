package queue

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Lane is one of the hash partitions of keys, owned under an epoch and a nonce. The epoch grows
// with every change of owner, and the nonce is drawn at random, so that (lane, owner, epoch, nonce)
// names one uninterrupted ownership, also in a database that goes back and counts the same epochs
// again.
type Lane struct {
	Lane  int
	Epoch int64
	Nonce int64
}

// Ownership is what a relay owns, and what it should.
type Ownership struct {
	// Lanes are owned now, sorted.
	Lanes []Lane
	// Share is how many lanes are the relay's fair share, and Free how many others have no owner.
	Share, Free int
	// Alone says that no other relay is at work.
	Alone bool
	// Incarnation is the database's.
	Incarnation Incarnation
	// Most is how many lanes another relay has at most.
	Most int
	// Changing says that the number of lanes is being changed.
	Changing bool
}

// Coming says that the relay may soon have more lanes: others have none, or give some back.
func (o Ownership) Coming() bool {
	return o.Changing || len(o.Lanes) < o.Share && (o.Free > 0 || o.Most > o.Share)
}

// Unbalanced says that Balance would give or take lanes.
func (o Ownership) Unbalanced() bool {
	return len(o.Lanes) > o.Share || len(o.Lanes) < o.Share && o.Free > 0
}

// Renew extends the lease on every lane the relay owns. A lane that ran out is renewed all the same
// when nobody took it: then nobody else can have published from it.
//
// Leases run on the database's clock, so the clocks of the relays' machines need not agree. The
// caller must count ttl from before the call.
//
// ErrWentBack says that the database has not, or not any more, what the relay wrote into it.
func (q *Queue) Renew(ctx context.Context, relay string, ttl time.Duration) (Ownership, error) {
	owned, err := q.renewing(ctx, relay, ttl,
		func(ctx context.Context, tx bun.IDB, r renewal) (Ownership, error) {
			if err := q.requireTimeline(ctx, tx, relay, false); err != nil {
				return Ownership{}, err
			}
			return q.ownership(ctx, tx, r)
		})
	if err != nil {
		return Ownership{}, fmt.Errorf("renew lanes: %w", err)
	}
	return owned, nil
}

// renewal is one of a lease.
type renewal struct {
	relay string
	ttl   time.Duration
	beat  int64
}

// micros is the ttl as the database keeps it.
func (r renewal) micros() int64 { return max(r.ttl, 0).Microseconds() }

// renewing runs a transaction that writes a new beat to the relay's lanes.
func (q *Queue) renewing(
	ctx context.Context, relay string, ttl time.Duration,
	do func(context.Context, bun.IDB, renewal) (Ownership, error),
) (owned Ownership, err error) {
	if err := q.settleIn(ctx); err != nil {
		return owned, err
	}
	r := renewal{relay, ttl, random()}
	err = q.InBounds(ctx, db.Within(ttl), func(ctx context.Context, tx bun.IDB) (err error) {
		owned, err = do(ctx, tx, r)
		q.timeline.writes(relay, r.beat) // before the commit, whose answer may be lost
		if err == nil {
			owned.Incarnation, err = q.incarnation(ctx, tx)
		}
		return err
	})
	if err == nil {
		q.timeline.written(relay, r.beat)
		q.timeline.learns(owned.Incarnation)
	}
	if err == nil && q.timeline.moved() {
		// Nothing of the course that the database is on now may leave under the name of the last
		// one.
		if err = q.settleIn(ctx); err == nil {
			owned.Incarnation, err = q.incarnation(ctx, q.DB())
			q.timeline.learns(owned.Incarnation)
		}
	}
	return owned, err
}

func (q *Queue) ownership(ctx context.Context, tx bun.IDB, r renewal) (owned Ownership, err error) {
	lanes, err := q.renew(ctx, tx, r)
	if err != nil {
		return Ownership{}, err
	}
	owned, err = q.fairShare(ctx, tx, r.relay)
	owned.Lanes = lanes
	return owned, err
}

// Balance renews like Renew, then moves towards the relay's fair share of the lanes: it gives back
// what is too much and takes what is free or has run out. It returns what is owned then. Nothing of
// a lane may be in flight, because the lane may be gone afterwards.
//
// Everything happens in one short transaction, without session locks, so that it works through a
// transaction-pooling proxy. Rows of others are only ever locked if they can be had without
// waiting, so that relays do not deadlock; InnoDB, which locks gaps of an index too, may still say
// that they did (Conflicted), and the next heartbeat tries again.
func (q *Queue) Balance(ctx context.Context, relay string, ttl time.Duration) (Ownership, error) {
	owned, err := q.renewing(ctx, relay, ttl,
		func(ctx context.Context, tx bun.IDB, r renewal) (Ownership, error) {
			if err := q.requireTimeline(ctx, tx, relay, false); err != nil {
				return Ownership{}, err
			}
			return q.balance(ctx, tx, r)
		})
	if err != nil {
		return Ownership{}, fmt.Errorf("balance lanes: %w", err)
	}
	return owned, nil
}

// Enter is Balance for a relay that knows nothing of lanes that it may own, because it has just
// started, or because it lost them, or because the database went back. It takes them anew: what was
// sent under the former ownership is not removed any more.
func (q *Queue) Enter(ctx context.Context, relay string, ttl time.Duration) (Ownership, error) {
	owned, err := q.renewing(ctx, relay, ttl,
		func(ctx context.Context, tx bun.IDB, r renewal) (Ownership, error) {
			if err := q.requireTimeline(ctx, tx, relay, true); err != nil {
				return Ownership{}, err
			}
			if err := q.giveUp(ctx, tx, relay); err != nil {
				return Ownership{}, err
			}
			return q.balance(ctx, tx, r)
		})
	if err != nil {
		return Ownership{}, fmt.Errorf("take lanes: %w", err)
	}
	return owned, nil
}

func (q *Queue) balance(ctx context.Context, tx bun.IDB, r renewal) (owned Ownership, err error) {
	owned, err = q.ownership(ctx, tx, r)
	if err != nil {
		return Ownership{}, err
	}
	if len(owned.Lanes) > owned.Share {
		err = q.giveBack(ctx, tx, r.relay, owned.Lanes[owned.Share:])
		owned.Lanes = owned.Lanes[:owned.Share]
		return owned, err
	}
	taken, err := q.take(ctx, tx, r, owned.Share-len(owned.Lanes))
	if len(taken) > 0 {
		q.lanes.Forget() // there may be more of them, or fewer, than there were
	}
	owned.Lanes = sortLanes(append(owned.Lanes, taken...))
	return owned, err
}

func (q *Queue) giveUp(ctx context.Context, tx bun.IDB, relay string) error {
	_, err := tx.ExecContext(ctx, "UPDATE ? SET owner = NULL, expires_at = NULL WHERE owner = ?",
		q.Table("outbox_lanes"), relay)
	return err
}

func (q *Queue) renew(ctx context.Context, tx bun.IDB, r renewal) ([]Lane, error) {
	until := q.dialect.After(q.dialect.Now(), r.ttl)
	_, err := tx.ExecContext(ctx, "INSERT INTO ? (id, expires_at, ttl, protocol) VALUES (?, "+until+
		", ?, ?)"+
		q.Upsert("id", "expires_at", "ttl",
			"protocol"), q.Table("outbox_relays"), r.relay, r.micros(), protocol)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, "UPDATE ? SET expires_at = "+until+
		", beat = ?, ttl = ? WHERE owner = ?",
		q.Table("outbox_lanes"), r.beat, r.micros(), r.relay)
	if err != nil {
		return nil, err
	}
	// The update holds these rows locked: nobody takes one, and nobody gives this relay another.
	return scanLanes(tx.QueryContext(ctx, "SELECT lane, epoch, nonce FROM ? WHERE owner = ?",
		q.Table("outbox_lanes"), r.relay))
}

func (q *Queue) giveBack(ctx context.Context, tx bun.IDB, relay string, lanes []Lane) error {
	_, err := tx.ExecContext(ctx,
		"UPDATE ? SET owner = NULL, expires_at = NULL WHERE owner = ? AND lane IN (?)",
		q.Table("outbox_lanes"), relay, bun.List(numbers(lanes)))
	return err
}

func (q *Queue) take(ctx context.Context, tx bun.IDB, r renewal, n int) ([]Lane, error) {
	if n == 0 {
		return nil, nil
	}
	free, err := scanLanes(tx.QueryContext(ctx, `
		SELECT lane, epoch, nonce FROM ? WHERE owner IS NULL OR expires_at < `+q.dialect.Now()+`
		ORDER BY lane LIMIT ? `+q.dialect.LockRows(), q.Table("outbox_lanes"), n))
	if err != nil || len(free) == 0 {
		return nil, err
	}
	nonce := random()
	_, err = tx.ExecContext(ctx, `
		UPDATE ? SET owner = ?, epoch = epoch + 1, nonce = ?, beat = ?, ttl = ?,
			expires_at = `+q.dialect.After(q.dialect.Now(), r.ttl)+`
		WHERE lane IN (?)`,
		q.Table("outbox_lanes"), r.relay, nonce, r.beat, r.micros(), bun.List(numbers(free)))
	for i := range free {
		free[i].Epoch++
		free[i].Nonce = nonce
	}
	return free, err
}

func scanLanes(rows *sql.Rows, err error) ([]Lane, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var lanes []Lane
	for rows.Next() {
		var l Lane
		if err := rows.Scan(&l.Lane, &l.Epoch, &l.Nonce); err != nil {
			return nil, err
		}
		lanes = append(lanes, l)
	}
	return sortLanes(lanes), rows.Err()
}

func sortLanes(lanes []Lane) []Lane {
	slices.SortFunc(lanes, func(a, b Lane) int { return a.Lane - b.Lane })
	return lanes
}

func numbers(lanes []Lane) []int {
	n := make([]int, len(lanes))
	for i, l := range lanes {
		n[i] = l.Lane
	}
	return n
}
