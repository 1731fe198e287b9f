package replica

import (
	"context"
	"encoding/json"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
)

// applier is what becomes of a model's messages. There are four: mirror, eachInTransaction,
// newestTogether and eachOutside. The batch asks an applier for its manner, and then by inTurn or
// by together.
type applier interface {
	// prepare makes of a message what is applied, before any transaction. Its errors are permanent.
	// fields is the message's instance, parsed.
	prepare(m *envelope.Message, fields map[string]json.RawMessage) (any, error)
	manner() manner
}

// manner is how an applier wants to be asked.
type manner struct {
	// inTurn is for each message of a key by itself, none passed over (inTurn); else for the newest
	// of many keys (together).
	inTurn bool
	// outside is before the transaction, because its effects are not in the database.
	outside bool
	thinks  bool // it is the service's own code, which keeps the transaction open
}

// inTurn is an applier for each message by itself.
type inTurn interface {
	applier
	// apply applies one message that the gate has let pass.
	apply(ctx context.Context, b *batch, tx transaction, a *attempt) error
}

// together is an applier for many keys at once.
type together interface {
	applier
	// plan puts into p what the messages of a key that passed come to.
	plan(p *plan, c *chain)
}

// events makes the event of a handler.
type events func(*envelope.Message, map[string]json.RawMessage) (any, error)

func (make events) prepare(m *envelope.Message, fields map[string]json.RawMessage) (any, error) {
	return make(m, fields)
}

// eachInTransaction is Handle.
type eachInTransaction struct {
	events
	handle func(ctx context.Context, tx bun.Tx, work any) error
}

func (*eachInTransaction) manner() manner { return manner{inTurn: true, thinks: true} }

// newestTogether is HandleBatch.
type newestTogether struct {
	events
	handle func(ctx context.Context, tx bun.Tx, works []any) error
}

func (*newestTogether) manner() manner { return manner{thinks: true} }

func (h *newestTogether) plan(p *plan, c *chain) { p.events[h] = append(p.events[h], c.last()) }

// eachOutside is HandleFunc.
type eachOutside struct {
	events
	call func(ctx context.Context, work any) error
}

func (*eachOutside) manner() manner { return manner{inTurn: true, outside: true} }

func (*mirror) manner() manner { return manner{} }

func (m *mirror) plan(p *plan, c *chain) { p.addRows(m, c) }

// mirror is the mirror of the binding's model, if it is mirrored.
func (b *binding) mirror() (m *mirror, is bool) {
	m, is = b.applier.(*mirror)
	return m, is
}

// isMirror says that a model's rows are kept in a table.
func isMirror(b *binding) bool {
	_, is := b.mirror()
	return is
}

// mirror is the mirror that the chain's messages are for, if they are for one.
func (c *chain) mirror() (m *mirror, is bool) { return c.binding.mirror() }
