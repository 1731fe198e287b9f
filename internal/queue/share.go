package queue

import (
	"context"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

// fairShare drops the relays that stopped renewing, and the leases that end too late, and divides
// the lanes by those left, rounded up. Where there is one writer only, the first relay takes all
// and the others wait for it to leave. It counts the free lanes, too.
func (q *Queue) fairShare(ctx context.Context, tx bun.IDB, relay string) (Ownership, error) {
	asked := time.Now()
	p, err := q.parties(ctx, tx, relay)
	if err != nil {
		return Ownership{}, err
	}
	if p.late == 0 {
		q.watch.over(asked, nil)
	}
	if p.late > 0 || p.dead > 0 { // nearly never
		if err := errors.Join(q.endLeases(ctx, tx, relay), q.forgetDead(ctx, tx)); err != nil {
			return Ownership{}, err
		}
		if p, err = q.parties(ctx, tx, relay); err != nil {
			return Ownership{}, err
		}
	}
	if p.changing > 0 {
		return Ownership{Changing: true}, nil
	}
	fair := Ownership{Free: p.free, Most: p.most, Alone: p.others == 0 &&
		(p.relays < 2 || q.dialect.oneRelay())}
	switch {
	case !q.dialect.oneRelay():
		// a ttl shorter than this transaction: this relay is live all the same
		relays := max(p.relays, 1)
		fair.Share = (p.lanes + relays - 1) / relays
	case p.others == 0:
		fair.Share = p.lanes
	}
	return fair, nil
}

// parties are who has the lanes: how many lanes there are, are free, and are others'; how many the
// other relay with most of them has; how many relays live, are dead, and have leases that end too
// late; and whether the lanes are being changed.
type parties struct{ lanes, free, others, most, relays, dead, late, changing int }

func (q *Queue) parties(ctx context.Context, tx bun.IDB, relay string) (p parties, err error) {
	now := q.dialect.Now()
	err = tx.QueryRowContext(ctx, `
		SELECT coalesce(sum(o.n), 0), coalesce(sum(o.free), 0),
			coalesce(sum(CASE WHEN o.owner <> ? THEN o.n - o.free ELSE 0 END), 0),
			coalesce(max(CASE WHEN o.owner <> ? THEN o.n - o.free ELSE 0 END), 0),
			(SELECT count(*) FROM ? WHERE expires_at >= `+now+` AND id <> ?),
			(SELECT count(*) FROM ? WHERE expires_at < `+now+`),
			(SELECT count(*) FROM ? WHERE id <> ? AND `+q.ahead("")+`)
				+ coalesce(sum(CASE WHEN o.owner <> ? THEN o.late ELSE 0 END), 0),
			(SELECT count(*) FROM ? WHERE expires_at >= `+now+` AND id = ?)
		FROM (
			SELECT owner, count(*) AS n,
				count(CASE WHEN owner IS NULL OR expires_at < `+now+` THEN 1 END) AS free,
				count(CASE WHEN `+q.ahead("")+` THEN 1 END) AS late
			FROM ? GROUP BY owner
		) AS o`,
		relay, relay, q.Table("outbox_relays"), changer, q.Table("outbox_relays"),
		q.Table("outbox_relays"), relay, relay, q.Table("outbox_relays"), changer,
		q.Table("outbox_lanes")).
		Scan(&p.lanes, &p.free, &p.others, &p.most, &p.relays, &p.dead, &p.late, &p.changing)
	return p, err
}

// forgetDead removes the relays that stopped renewing.
func (q *Queue) forgetDead(ctx context.Context, tx bun.IDB) error {
	var dead []string
	err := tx.NewRaw("SELECT id FROM ? WHERE expires_at < "+q.dialect.Now()+" "+
		q.dialect.LockRows(),
		q.Table("outbox_relays")).Scan(ctx, &dead)
	if err != nil || len(dead) == 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE id IN (?)", q.Table("outbox_relays"),
		bun.List(dead))
	return err
}
