package queue

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Progress is what one relay has before it, by the database's clock.
type Progress struct {
	// Lanes counts all lanes, Owned those with a live owner, and Own those that are this relay's.
	Lanes, Owned, Own int64
	// OldestAge is how long the oldest message has waited that may leave from the relay's own
	// lanes, zero when there is none. Messages of keys that wait for another attempt do not count.
	OldestAge time.Duration
	// OrphanAge is that of the oldest message of the lanes that have no live owner.
	OrphanAge time.Duration
}

// Progress looks at the head of each lane that the relay owns, or nobody, so it takes no longer
// when the backlog is large.
func (q *Queue) Progress(ctx context.Context, relay string) (Progress, error) {
	var p Progress
	var oldest, orphan sql.NullInt64
	now := q.dialect.Now()
	err := q.DB().QueryRowContext(ctx, q.SQL(`
		SELECT count(*), count(CASE WHEN h.live THEN 1 END),
			count(CASE WHEN h.owner = ? AND h.live THEN 1 END),
			`+q.dialect.Micros(now)+` - min(CASE WHEN h.owner = ? THEN h.created END),
			`+q.dialect.Micros(now)+` - min(CASE WHEN NOT h.live THEN h.created END)
		FROM (
			SELECT l.owner, coalesce(`+q.leased("l.")+`, FALSE) AS live,
				CASE WHEN l.owner = ? OR NOT coalesce(`+q.leased("l.")+`, FALSE) THEN (
					SELECT `+q.dialect.Micros("m.created_at")+` FROM ? AS m
					WHERE m.lane = l.lane AND NOT EXISTS (
						SELECT 1 FROM ? AS r WHERE r.model = m.model AND r."key" = m."key")
					ORDER BY m.id LIMIT 1
			) END AS created
			FROM ? AS l
		) AS h`),
		relay, relay, relay,
		q.Table("outbox_messages"), q.Table("outbox_retries"), q.Table("outbox_lanes")).
		Scan(&p.Lanes, &p.Owned, &p.Own, &oldest, &orphan)
	if err != nil {
		return Progress{}, fmt.Errorf("read the oldest messages: %w", err)
	}
	p.OldestAge = time.Duration(max(oldest.Int64, 0)) * time.Microsecond
	p.OrphanAge = time.Duration(max(orphan.Int64, 0)) * time.Microsecond
	return p, nil
}
