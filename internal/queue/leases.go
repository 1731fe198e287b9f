package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

// A lease stands in the database as a time on its clock. When that goes back, by hand or by a
// failover to a host whose clock is slower, the lease of a relay that died ends far in the future,
// and its lanes would stand still until then. What no relay can have written just now is watched,
// on the watcher's own monotonic clock: an owner that does not renew for as long as its lease was
// has lost it, whatever the time.

// clockSlack is how much later than it was written a lease may seem to end, because the clock is
// read twice.
const clockSlack = time.Second

// unknownTTL is for leases of versions that did not say how long they were.
const unknownTTL = 10 * time.Minute

// left is an expression for how long a lease runs, in microseconds.
func (q *Queue) left(expires string) string {
	return "(" + q.dialect.Micros(expires) + " - " + q.dialect.Micros(q.dialect.Now()) + ")"
}

// ahead is a condition on a row of outbox_lanes or outbox_relays, by its alias with a point or
// without one: its lease ends later than it can.
func (q *Queue) ahead(alias string) string {
	return fmt.Sprintf("%s > %sttl + %d", q.left(alias+"expires_at"), alias,
		clockSlack.Microseconds())
}

// leased is a condition that a lease runs.
func (q *Queue) leased(alias string) string {
	return "(" + alias + "expires_at >= " + q.dialect.Now() + " AND NOT " + q.ahead(alias) + ")"
}

// watch remembers leases that end too late, and since when each is as it is.
type watch struct {
	mu     sync.Mutex
	leases map[string]watched
}

type watched struct {
	expires int64
	since   time.Time
}

// over notes the leases that end too late now, and lists those that were not renewed for as long as
// they are.
func (w *watch) over(now time.Time, found map[string]lateLease) (over []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]watched{}
	for owner, lease := range found {
		at, known := w.leases[owner]
		if !known || at.expires != lease.expires {
			at = watched{lease.expires, now}
		}
		seen[owner] = at
		if now.Sub(at.since) > lease.ttl {
			over = append(over, owner)
		}
	}
	w.leases = seen
	return over
}

// lateLease is one that ends too late, at a time in microseconds.
type lateLease struct {
	expires int64
	ttl     time.Duration
}

// endLeases frees the lanes of owners whose leases end too late and that do not renew them, and
// forgets those relays.
func (q *Queue) endLeases(ctx context.Context, tx bun.IDB, relay string) error {
	asked := time.Now()
	found, err := q.lateLeases(ctx, tx, relay)
	if err != nil {
		return err
	}
	for _, owner := range q.watch.over(asked, found) {
		_, err := tx.ExecContext(ctx,
			"UPDATE ? SET owner = NULL, expires_at = NULL WHERE owner = ? AND "+q.ahead(""),
			q.Table("outbox_lanes"), owner)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE id = ? AND "+q.ahead(""),
			q.Table("outbox_relays"), owner)
		if err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) lateLeases(
	ctx context.Context, tx bun.IDB, relay string,
) (map[string]lateLease, error) {
	expires := q.dialect.Micros("expires_at")
	rows, err := tx.QueryContext(ctx, `
		SELECT id, `+expires+`, ttl FROM ? WHERE id <> ? AND `+q.ahead("")+`
		UNION ALL
		SELECT owner, max(`+expires+`), max(ttl) FROM ?
		WHERE owner <> ? AND `+q.ahead("")+` GROUP BY owner`,
		q.Table("outbox_relays"), relay, q.Table("outbox_lanes"), relay)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	found := map[string]lateLease{}
	for rows.Next() {
		var owner string
		var at, micros int64
		if err := rows.Scan(&owner, &at, &micros); err != nil {
			return nil, err
		}
		ttl := time.Duration(micros) * time.Microsecond
		if ttl <= 0 {
			ttl = unknownTTL
		}
		before := found[owner]
		found[owner] = lateLease{max(at, before.expires), max(ttl, before.ttl)}
	}
	return found, rows.Err()
}
