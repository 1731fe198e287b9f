package store

import (
	"context"
	"fmt"
)

// Unsent reads all messages behind the identity after, whatever their lane, in the order of the identity. It is for
// tests and small outboxes: it holds them all.
func (s *Store) Unsent(ctx context.Context, after int64) (messages []Message, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+s.claimColumns()+", 0 FROM ? AS m WHERE m.id > ? ORDER BY m.id",
		s.table("outbox_messages"), after)
	if err != nil {
		return nil, fmt.Errorf("read unsent messages: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	row := newClaimedRow()
	for rows.Next() {
		m, err := row.scan(rows)
		if err == nil {
			err = m.Invalid
		}
		if err != nil {
			return nil, fmt.Errorf("read an unsent message: %w", err)
		}
		messages = append(messages, m.Message)
	}
	return messages, rows.Err()
}
