package relay

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/transport"
)

// encoder makes the wire messages of a batch.
type encoder struct {
	incarnation string // of the database
	data        []byte // of the last message, stamped
}

// encode makes the wire message of a row, and says where it goes. The revision and the time of the
// ledger go into the body here, not when the row is written, so that one statement can draw the
// revision and write the row.
func (c *encoder) encode(m *queue.Claimed) (transport.Outgoing, error) {
	if m.Invalid != nil {
		return transport.Outgoing{}, m.Invalid
	}
	data, odd, dataErr := envelope.Unshelve(m.Data)
	previous, previousOdd, previousErr := envelope.Unshelve(m.Previous)
	if err := errors.Join(dataErr, previousErr); err != nil {
		return transport.Outgoing{}, fmt.Errorf("encode outbox message %d: %w", m.ID, err)
	}
	c.data = envelope.AppendStamp(c.data[:0], data, m.Revision, m.Updated)
	e := envelope.Message{
		Signal:            envelope.Signal(m.Signal),
		Model:             m.Model,
		PK:                m.PK,
		Data:              c.data,
		NonFinite:         odd,
		Revision:          m.Revision,
		Updated:           m.Updated,
		Previous:          previous,
		PreviousNonFinite: previousOdd,
		Meta:              m.Meta,
		CorrelationID:     m.CorrelationID,
		Expires:           m.Expires,
		Key:               m.Key,
		After:             afterOf(m),
		Queue:             m.Queue,
		Incarnation:       c.incarnation,
		Headers:           m.Headers,
	}
	if force := m.Headers[envelope.ForceHeader]; force != "" {
		_ = e.ReadForce(force) // what is neither is a header of somebody else, and not sent
	}
	body, err := e.Encode()
	if err != nil {
		return transport.Outgoing{}, fmt.Errorf("encode outbox message %d: %w", m.ID, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return transport.Outgoing{}, fmt.Errorf("draw a message id: %w", err)
	}
	out := message.NewMessage(id.String(), body)
	out.Metadata = e.Metadata()
	return transport.Outgoing{Topic: topicOf(m), Message: out}, nil
}

// afterOf says of a message with a revision of its own that it is the first where it is: a row
// without an after is that. A SYNC repeats a revision, and says nothing of what was sent before.
func afterOf(m *queue.Claimed) *int64 {
	if m.After == nil && envelope.Signal(m.Signal) != envelope.Sync {
		return new(envelope.NothingBefore)
	}
	return m.After
}
