package queue

import (
	"context"
	"fmt"
	"time"
)

// Status is the state of the outbox at one moment, by the database's clock.
type Status struct {
	// Unsent counts the messages that no broker has confirmed.
	Unsent int64
	// OldestAge is how long the oldest of them has waited, zero when there is none: of those that
	// were written first in their lanes.
	OldestAge time.Duration
	// Retries counts the keys whose oldest message failed and waits for another attempt.
	Retries int64
	// DeadLetters counts the messages that were given up.
	DeadLetters int64
	// UnsentEstimated, RetriesEstimated and DeadLettersEstimated say that there are so many, at
	// least 100,000, that they were not counted: the number is about right.
	UnsentEstimated, RetriesEstimated, DeadLettersEstimated bool
	// Relays counts the live relays.
	Relays int64
	// Lanes counts the lanes, and LanesOwned those with a live owner.
	Lanes, LanesOwned int64
	// LanesAhead counts lanes with an owner whose lease ends later than it can, because the
	// database's clock went back. Relays take them when the owner has not renewed the lease for as
	// long as it was.
	LanesAhead int64
}

// Status reads the state of the outbox. It takes about as long whatever the backlog is: see Count.
func (q *Queue) Status(ctx context.Context) (Status, error) {
	st, err := q.status(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("read the state of the outbox: %w", err)
	}
	for _, c := range []struct {
		table, key string
		rows       *int64
		estimated  *bool
	}{
		{"outbox_messages", "lane, id", &st.Unsent, &st.UnsentEstimated},
		{"outbox_retries", `model, "key"`, &st.Retries, &st.RetriesEstimated},
		{"outbox_dead_letters", "id", &st.DeadLetters, &st.DeadLettersEstimated},
	} {
		count, err := q.count(ctx, q.Table(c.table), c.key)
		if err != nil {
			return Status{}, fmt.Errorf("read the state of the outbox: %w", err)
		}
		*c.rows, *c.estimated = count.Rows, count.Estimated
	}
	return st, nil
}

// status is what stands in the lanes, and at their heads.
func (q *Queue) status(ctx context.Context) (st Status, err error) {
	var oldest int64
	now := q.dialect.Micros(q.dialect.Now())
	err = q.DB().QueryRowContext(ctx, `
		SELECT (SELECT count(*) FROM ? WHERE `+q.leased("")+` AND id <> ?),
			count(*), count(CASE WHEN h.live THEN 1 END), count(CASE WHEN h.ahead THEN 1 END),
			coalesce(`+now+` - min(h.created), 0)
		FROM (
			SELECT `+q.leased("l.")+` AS live, `+q.ahead("l.")+` AS ahead, (
				SELECT `+q.dialect.Micros("m.created_at")+` FROM ? AS m
				WHERE m.lane = l.lane ORDER BY m.id LIMIT 1
			) AS created
			FROM ? AS l
		) AS h`,
		q.Table("outbox_relays"), changer, q.Table("outbox_messages"), q.Table("outbox_lanes")).
		Scan(&st.Relays, &st.Lanes, &st.LanesOwned, &st.LanesAhead, &oldest)
	st.OldestAge = time.Duration(max(oldest, 0)) * time.Microsecond
	return st, err
}

// Through returns a time by the database's clock up to which all that was committed has left the
// outbox, and the time now. What waits for a broker, or to be tried again, holds it back.
func (q *Queue) Through(ctx context.Context) (now, through time.Time, err error) {
	// before the outbox is read: what comes meanwhile is later
	if now, err = q.Now(ctx); err != nil {
		return now, now, err
	}
	st, err := q.status(ctx)
	if err != nil {
		return now, now, fmt.Errorf("read how far the outbox is empty: %w", err)
	}
	return now, now.Add(-st.OldestAge), nil
}
