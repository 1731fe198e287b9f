package replica

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/transport"
)

// A master says things to a replica in the replica's own queue, between the messages: so what it
// says comes behind all that it had sent before. It is handed over when all of that is settled,
// which means applied, waiting, or a dead letter. Nothing waits for it.

// stage is a part of what a subscription delivers: all between two messages of control.
type stage struct {
	*intake

	before  <-chan struct{} // closed when all stages before this one are settled
	pending sync.WaitGroup  // what of this one is not settled yet
}

func (s *stage) ended(attempts []*attempt) {
	s.intake.ended(attempts)
	s.pending.Add(-len(attempts))
}

// maxControls is how many messages of control wait at once for what came before them. Where a
// message is stuck they would fill the window; those beyond are let go: later ones say more, or the
// same once more.
const maxControls = 256

// isControl says that a message is not one of those that are applied.
func isControl(carrier *message.Message) bool {
	return carrier.Metadata.Get(transport.ControlKey) != ""
}

// control hands a message over when all before it is settled, and begins the next stage.
func (in *intake) control(ctx context.Context, carrier *message.Message) {
	e := in.engine
	in.unsettled.Add(1)
	e.memory.take(len(carrier.Payload))
	end := func(acked bool) {
		if acked {
			in.Settle([]*message.Message{carrier}, nil)
		} else {
			in.Settle(nil, []*message.Message{carrier})
		}
		e.memory.give(len(carrier.Payload), 1)
		in.unsettled.Done()
	}
	if e.listener == nil || e.controls.Add(1) > maxControls {
		if e.listener != nil {
			e.controls.Add(-1)
		}
		e.count(Ignored)
		end(true)
		return
	}
	last, settled := in.stage, make(chan struct{})
	in.stage = &stage{intake: in, before: settled}
	go func() {
		defer e.controls.Add(-1)
		<-last.before
		last.pending.Wait()
		close(settled)
		if ctx.Err() != nil {
			end(false)
			return
		}
		e.tell(ctx, carrier)
		end(true)
	}()
}

// tell hands a message of control to the listener.
func (e *engine) tell(ctx context.Context, carrier *message.Message) {
	err := e.guard(withValues(ctx, carrier.Context()), nil, func(ctx context.Context) error {
		e.listener.Control(ctx, carrier.Payload)
		return nil
	})
	if err != nil {
		e.log.Error("what the master said could not be handled", "error", err)
	}
}

// lacks tells the listener that a key is not as its master has it.
func (e *engine) lacks(l mirrored.Lack) {
	if e.listener != nil {
		e.listener.Lacks(l)
	}
}

// lacksNewer tells that a state which was given up needs a newer one: of one that has expired, the
// same state sent anew is that.
func (e *engine) lacksNewer(f failure, reason Reason) {
	if !f.keyed || f.message == nil {
		return
	}
	above := f.message.Revision
	if reason == Expired {
		above--
	}
	e.lacks(mirrored.Lack{
		Model: f.message.Model, Key: f.message.Key, Above: above, Cause: mirrored.DeadLetter,
	})
}
