package store

import (
	"context"
	"fmt"
	"time"
)

// Status is the state of the outbox at one moment, by the database's clock.
type Status struct {
	// Unsent counts the messages that no broker has confirmed.
	Unsent int64
	// OldestAge is how long the oldest of them has waited, zero when there is none.
	OldestAge time.Duration
	// Retries counts the keys whose oldest message failed and waits for another attempt.
	Retries int64
	// DeadLetters counts the messages that were given up.
	DeadLetters int64
	// Relays counts the live relays.
	Relays int64
	// Lanes counts the lanes, and LanesOwned those with a live owner.
	Lanes, LanesOwned int64
	// LanesAhead counts lanes with an owner whose lease ends later than it can, because the database's clock went back. Relays
	// take them when the owner has not renewed the lease for as long as it was.
	LanesAhead int64
}

// Status reads the state of the outbox. It counts rows, and so takes longer the larger the backlog is.
func (s *Store) Status(ctx context.Context) (Status, error) {
	var st Status
	var oldest int64
	now := s.dialect.now()
	err := s.db.QueryRowContext(ctx, `
		SELECT count(*), coalesce(`+s.dialect.micros(now)+` - `+s.dialect.micros("min(m.created_at)")+`, 0),
			(SELECT count(*) FROM ?),
			(SELECT count(*) FROM ?),
			(SELECT count(*) FROM ? WHERE `+s.leased("")+` AND id <> ?),
			(SELECT count(*) FROM ?),
			(SELECT count(*) FROM ? WHERE `+s.leased("")+`),
			(SELECT count(*) FROM ? WHERE `+s.ahead("")+`)
		FROM ? AS m`,
		s.table("outbox_retries"), s.table("outbox_dead_letters"), s.table("outbox_relays"), changer,
		s.table("outbox_lanes"), s.table("outbox_lanes"), s.table("outbox_lanes"), s.table("outbox_messages")).
		Scan(&st.Unsent, &oldest, &st.Retries, &st.DeadLetters, &st.Relays, &st.Lanes, &st.LanesOwned, &st.LanesAhead)
	if err != nil {
		return Status{}, fmt.Errorf("read the state of the outbox: %w", err)
	}
	st.OldestAge = time.Duration(max(oldest, 0)) * time.Microsecond
	return st, nil
}
