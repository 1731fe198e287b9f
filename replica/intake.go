package replica

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// intake is what one subscription delivers, until it is acknowledged or returned.
type intake struct {
	engine *engine
	transport.Subscription
	unsettled sync.WaitGroup
	stage     *stage // of the next message
}

// take hands a message to the engine, which settles it.
func (in *intake) take(ctx context.Context, e *engine, carrier *message.Message) {
	in.unsettled.Add(1)
	in.stage.pending.Add(1)
	e.memory.take(len(carrier.Payload))
	d := e.read(delivery{
		ctx: withValues(ctx, carrier.Context()), from: in.stage, carrier: carrier,
		uuid: carrier.UUID, body: carrier.Payload, headers: carrier.Metadata,
	})
	e.hears(d.message)
	e.submit(d)
}

func (in *intake) ended(attempts []*attempt) {
	var acked, returned []*message.Message
	size := 0
	for _, a := range attempts {
		size += len(a.carrier.Payload)
		if a.outcome == Returned {
			if in.engine.trouble.worth("returned", a.result) {
				in.engine.log.Warn("message returned to the broker", a.attrs("error", a.result)...)
			}
			returned = append(returned, a.carrier)
		} else {
			acked = append(acked, a.carrier)
		}
	}
	in.Settle(acked, returned)
	in.engine.memory.give(size, len(attempts))
	in.unsettled.Add(-len(attempts))
}

// valued is a context with the values of another one.
type valued struct {
	context.Context
	values context.Context
}

func (v valued) Value(key any) any {
	if value := v.values.Value(key); value != nil {
		return value
	}
	return v.Context.Value(key)
}

// withValues is ctx with the values of another context, such as a trace, and without its end.
func withValues(ctx, values context.Context) context.Context { return valued{ctx, values} }
