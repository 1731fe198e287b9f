package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Lane is one of the hash partitions of keys, owned under an epoch. The epoch grows with every change of owner, so
// that (lane, owner, epoch) names one uninterrupted ownership.
type Lane struct {
	Lane  int
	Epoch int64
}

// Ownership is what a relay owns, and what it should.
type Ownership struct {
	// Lanes are owned now, sorted.
	Lanes []Lane
	// Share is how many lanes are the relay's fair share, and Free how many others have no owner.
	Share, Free int
	// Alone says that no other relay is at work.
	Alone bool
}

// Unbalanced says that Balance would give or take lanes.
func (o Ownership) Unbalanced() bool {
	return len(o.Lanes) > o.Share || len(o.Lanes) < o.Share && o.Free > 0
}

// Renew extends the lease on every lane the relay owns. A lane that ran out is renewed all the same when nobody took it:
// then nobody else can have published from it.
//
// Leases run on the database's clock, so the clocks of the relays' machines need not agree. The caller must count ttl
// from before the call.
func (s *Store) Renew(ctx context.Context, relay string, ttl time.Duration) (owned Ownership, err error) {
	err = s.inTx(ctx, within(ttl), func(ctx context.Context, tx bun.IDB) error {
		owned, err = s.ownership(ctx, tx, relay, ttl)
		return err
	})
	if err != nil {
		return Ownership{}, fmt.Errorf("renew lanes: %w", err)
	}
	return owned, nil
}

func (s *Store) ownership(ctx context.Context, tx bun.IDB, relay string, ttl time.Duration) (owned Ownership, err error) {
	lanes, err := s.renew(ctx, tx, relay, ttl)
	if err != nil {
		return Ownership{}, err
	}
	owned, err = s.fairShare(ctx, tx, relay)
	owned.Lanes = lanes
	return owned, err
}

// Balance renews like Renew, then moves towards the relay's fair share of the lanes: it gives back what is too much
// and takes what is free or has run out. It returns what is owned then. Nothing of a lane may be in
// flight, because the lane may be gone afterwards.
//
// Everything happens in one short transaction, without session locks, so that it works through a transaction-pooling
// proxy. Rows of others are only ever locked if they can be had without waiting, so that relays do not deadlock; InnoDB,
// which locks gaps of an index too, may still say that they did (Conflicted), and the next heartbeat tries again.
func (s *Store) Balance(ctx context.Context, relay string, ttl time.Duration) (owned Ownership, err error) {
	err = s.inTx(ctx, within(ttl), func(ctx context.Context, tx bun.IDB) error {
		owned, err = s.ownership(ctx, tx, relay, ttl)
		if err != nil {
			return err
		}
		if len(owned.Lanes) > owned.Share {
			err = s.giveBack(ctx, tx, relay, owned.Lanes[owned.Share:])
			owned.Lanes = owned.Lanes[:owned.Share]
			return err
		}
		taken, err := s.take(ctx, tx, relay, ttl, owned.Share-len(owned.Lanes))
		if len(taken) > 0 {
			s.cached.Store(nil) // there may be more of them, or fewer, than there were
		}
		owned.Lanes = sortLanes(append(owned.Lanes, taken...))
		return err
	})
	if err != nil {
		return Ownership{}, fmt.Errorf("balance lanes: %w", err)
	}
	return owned, nil
}

// Leave hands back every lane and signs the relay off, so that others take over at once instead of after the ttl.
func (s *Store) Leave(ctx context.Context, relay string) error {
	err := s.inTx(ctx, s.bounds, func(ctx context.Context, tx bun.IDB) error {
		_, err := tx.ExecContext(ctx, "UPDATE ? SET owner = NULL, expires_at = NULL WHERE owner = ?",
			s.table("outbox_lanes"), relay)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE id = ?", s.table("outbox_relays"), relay)
		return err
	})
	if err != nil {
		return fmt.Errorf("hand back lanes: %w", err)
	}
	return nil
}

func (s *Store) renew(ctx context.Context, tx bun.IDB, relay string, ttl time.Duration) ([]Lane, error) {
	until := s.dialect.after(s.dialect.now(), ttl)
	_, err := tx.ExecContext(ctx, "INSERT INTO ? (id, expires_at) VALUES (?, "+until+")"+s.upsert("id", "expires_at"),
		s.table("outbox_relays"), relay)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, "UPDATE ? SET expires_at = "+until+" WHERE owner = ?", s.table("outbox_lanes"), relay)
	if err != nil {
		return nil, err
	}
	// The update holds these rows locked: nobody takes one, and nobody gives this relay another.
	return scanLanes(tx.QueryContext(ctx, "SELECT lane, epoch FROM ? WHERE owner = ?", s.table("outbox_lanes"), relay))
}

// fairShare drops the relays that stopped renewing and divides the lanes by those left, rounded up. Where there is one
// writer only, the first relay takes all and the others wait for it to leave. It counts the free lanes, too.
func (s *Store) fairShare(ctx context.Context, tx bun.IDB, relay string) (fair Ownership, err error) {
	var dead []string
	err = tx.NewRaw("SELECT id FROM ? WHERE expires_at < "+s.dialect.now()+" "+s.dialect.lockRows(),
		s.table("outbox_relays")).Scan(ctx, &dead)
	if err != nil {
		return Ownership{}, err
	}
	if len(dead) > 0 {
		_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE id IN (?)", s.table("outbox_relays"), bun.List(dead))
		if err != nil {
			return Ownership{}, err
		}
	}
	var lanes, others, relays, changing int
	now := s.dialect.now()
	err = tx.QueryRowContext(ctx, `
		SELECT count(*), count(CASE WHEN owner IS NULL OR expires_at < `+now+` THEN 1 END),
			count(CASE WHEN owner <> ? AND expires_at >= `+now+` THEN 1 END),
			(SELECT count(*) FROM ? WHERE expires_at >= `+now+` AND id <> ?),
			(SELECT count(*) FROM ? WHERE expires_at >= `+now+` AND id = ?)
		FROM ?`, relay, s.table("outbox_relays"), changer, s.table("outbox_relays"), changer, s.table("outbox_lanes")).
		Scan(&lanes, &fair.Free, &others, &relays, &changing)
	if err != nil || changing > 0 {
		return Ownership{}, err
	}
	fair.Alone = others == 0 && (relays < 2 || s.dialect.oneRelay())
	switch {
	case !s.dialect.oneRelay():
		relays = max(relays, 1) // a ttl shorter than this transaction: this relay is live all the same
		fair.Share = (lanes + relays - 1) / relays
	case others == 0:
		fair.Share = lanes
	}
	return fair, nil
}

func (s *Store) giveBack(ctx context.Context, tx bun.IDB, relay string, lanes []Lane) error {
	_, err := tx.ExecContext(ctx, "UPDATE ? SET owner = NULL, expires_at = NULL WHERE owner = ? AND lane IN (?)",
		s.table("outbox_lanes"), relay, bun.List(numbers(lanes)))
	return err
}

func (s *Store) take(ctx context.Context, tx bun.IDB, relay string, ttl time.Duration, n int) ([]Lane, error) {
	if n == 0 {
		return nil, nil
	}
	free, err := scanLanes(tx.QueryContext(ctx, `
		SELECT lane, epoch FROM ? WHERE owner IS NULL OR expires_at < `+s.dialect.now()+`
		ORDER BY lane LIMIT ? `+s.dialect.lockRows(), s.table("outbox_lanes"), n))
	if err != nil || len(free) == 0 {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `
		UPDATE ? SET owner = ?, epoch = epoch + 1, expires_at = `+s.dialect.after(s.dialect.now(), ttl)+`
		WHERE lane IN (?)`, s.table("outbox_lanes"), relay, bun.List(numbers(free)))
	for i := range free {
		free[i].Epoch++
	}
	return free, err
}

// fence is a condition on a row of outbox_messages that holds only while relay owns its lane under the very epoch that
// lanes says. A relay that was stopped for longer than its lease, or survived a restore of the database, changes nothing.
func (s *Store) fence(relay string, lanes []Lane) schema.QueryWithArgs {
	var owned []string
	for epoch, numbers := range lanesByEpoch(lanes) {
		owned = append(owned, fmt.Sprintf("epoch = %d AND lane IN (%s)", epoch, joinInts(numbers)))
	}
	return bun.SafeQuery(s.dialect.anyOf("lane", "SELECT lane FROM ? WHERE owner = ? AND ("+strings.Join(owned, " OR ")+")"),
		s.table("outbox_lanes"), relay)
}

// lanesByEpoch: the epochs are few, and a list of numbers is read faster than one of pairs.
func lanesByEpoch(lanes []Lane) map[int64][]int64 {
	byEpoch := map[int64][]int64{}
	for _, l := range lanes {
		byEpoch[l.Epoch] = append(byEpoch[l.Epoch], int64(l.Lane))
	}
	return byEpoch
}

func scanLanes(rows *sql.Rows, err error) ([]Lane, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var lanes []Lane
	for rows.Next() {
		var l Lane
		if err := rows.Scan(&l.Lane, &l.Epoch); err != nil {
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
