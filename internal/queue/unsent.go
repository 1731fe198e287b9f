package queue

import (
	"context"
	"errors"
	"fmt"
)

// Unsent reads all messages behind the identity after, whatever their lane, in the order of the
// identity. It is for tests and small outboxes: it holds them all.
func (q *Queue) Unsent(ctx context.Context, after int64) (messages []Message, err error) {
	conn, err := q.DB().Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("read unsent messages: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	row := q.newClaimedRow()
	err = q.readRows(ctx, conn, row.columns, func() error {
		m := row.message()
		messages = append(messages, m.Message)
		return m.Invalid
	}, "SELECT "+q.claimColumns()+
		", 0 FROM ? AS m WHERE m.id > ? ORDER BY m.id", q.Table("outbox_messages"), after)
	if err != nil {
		return nil, fmt.Errorf("read unsent messages: %w", err)
	}
	return messages, nil
}
