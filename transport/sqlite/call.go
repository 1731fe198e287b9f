package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/expiry"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// call is a PublishBatch on its way. It shares nothing with the caller's messages: the caller may
// have gone when it is written.
type call struct {
	ctx  context.Context
	rows []row
	size uint64  // in bytes
	errs []error // valid when done is closed

	dropped []string // the topics of messages for which there is no queue
	done    chan struct{}
}

type row struct {
	topic, uuid, metadata string
	payload               []byte
	ttl                   time.Duration // if limited
	limited               bool
}

// perRow is what a message costs beside its text, about.
const perRow = 100

func newCall(ctx context.Context, batch []transport.Outgoing) (*call, error) {
	c := &call{
		ctx: ctx, rows: make([]row, len(batch)), errs: make([]error, len(batch)),
		done: make(chan struct{}),
	}
	for i, out := range batch {
		text, err := json.Marshal(expiry.Travelling(out.Message.Metadata))
		if err != nil {
			return nil, err
		}
		ttl, limited, err := expiry.Of(out.Message.Metadata)
		if err != nil {
			c.errs[i] = fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, err)
		}
		c.rows[i] = row{
			topic:    out.Topic,
			uuid:     out.Message.UUID,
			metadata: string(text),
			payload:  append([]byte{}, out.Message.Payload...), // nil would be NULL
			ttl:      ttl,
			limited:  limited,
		}
		c.size += uint64(len(text) + len(out.Message.Payload) + len(out.Topic) + perRow)
	}
	return c, nil
}

// insert writes the messages of a call that are not refused, and drops what has no room in an
// inbox.
func (p *Publisher) insert(ctx context.Context, tx transaction, c *call) error {
	insert := tx.StmtContext(ctx, tx.insert)
	defer insert.Close()
	now := time.Now()
	published := now.UnixMilli()
	c.dropped = nil // of a transaction that failed
	topics := map[string]bool{}
	for i, r := range c.rows {
		if c.errs[i] != nil {
			continue
		}
		var expires int64
		if r.limited {
			expires = now.Add(r.ttl).UnixMilli()
		}
		result, err := insert.ExecContext(ctx,
			r.topic, r.uuid, r.metadata, r.payload, published, expires)
		if err != nil {
			return err
		}
		queues, err := result.RowsAffected()
		if err != nil {
			return err
		}
		topics[r.topic] = true
		switch {
		case queues > 0:
		case p.config.DropUnroutable:
			c.dropped = append(c.dropped, r.topic)
		default:
			c.errs[i] = fmt.Errorf("%w: topic %q in SQLite file %s: start the replica once, with "+
				"this file",
				transport.ErrUnroutable, r.topic, p.file.path)
		}
	}
	for topic := range topics {
		if err := tx.run(ctx, tx.trim, topic, inbox.Most); err != nil {
			return err
		}
	}
	return nil
}
