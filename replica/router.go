package replica

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Handler is the replica as a handler for a Watermill Router: nil means done with (applied, without
// effect, waiting in the replica's own table, or a dead letter), an error means to deliver the
// message again. It returns when the message's transaction has ended; messages that are handled at
// the same time share one. It takes messages of every registered model, and ends the time of
// registration; a registration error is what it then returns for each message.
//
// Call Maintain beside it, or use AddHandlers, which does.
func (r *Replica) Handler() message.NoPublishHandlerFunc {
	if err := r.start(); err != nil {
		return func(*message.Message) error { return err }
	}
	return func(m *message.Message) error {
		if isControl(m) {
			if r.listener != nil {
				r.tell(m.Context(), m)
			}
			return nil
		}
		ended := newResults(1)
		d := r.read(delivery{
			ctx: m.Context(), from: ended, uuid: m.UUID, body: m.Payload, headers: m.Metadata,
		})
		r.hears(d.message)
		r.submit(d)
		ended.Wait()
		if result := ended.all[0]; result.Outcome == Returned {
			return result.Err
		}
		return nil
	}
}

// AddHandlers adds a handler for each registered model to a Watermill Router, under the name
// "<queue>.<model>", and does the work of Maintain while the Router runs. Retry and poison queue
// middleware is not needed. A transport.WindowSubscriber hands out as many messages at a time as
// Config.Window says, and so fills the transactions; a stock one gives one per model.
func (r *Replica) AddHandlers(router *message.Router, subscriber message.Subscriber) error {
	if err := r.start(); err != nil {
		return err
	}
	existing := router.Handlers()
	for model := range r.models {
		if name := r.handlerName(model); existing[name] != nil {
			return fmt.Errorf("the router has a handler %q already: add a replica's handlers once",
				name)
		}
	}
	handler, maintained := r.Handler(), &maintainedSubscriber{Subscriber: subscriber, replica: r}
	for _, b := range r.order {
		router.AddConsumerHandler(r.handlerName(b.model), b.model, maintained, handler)
	}
	return nil
}

func (r *Replica) handlerName(model string) string { return r.config.Queue + "." + model }

// maintainedSubscriber hands a Router whole windows, and does Maintain's work as long as the
// Router's context lasts.
type maintainedSubscriber struct {
	message.Subscriber
	replica *Replica
	once    sync.Once
	running sync.WaitGroup
}

// Subscribe implements message.Subscriber.
func (s *maintainedSubscriber) Subscribe(
	ctx context.Context, topic string,
) (<-chan *message.Message, error) {
	s.once.Do(func() {
		s.replica.recallMasters(ctx)
		s.running.Go(func() { s.replica.watchQueue(ctx, s.Subscriber) })
		s.running.Go(func() {
			if err := s.replica.Maintain(ctx); err != nil {
				s.replica.log.Error("waiting messages are not tried again", "error", err)
			}
		})
	})
	if windowed, ok := s.Subscriber.(transport.WindowSubscriber); ok {
		return windowed.SubscribeWindow(ctx, topic, s.replica.window(len(s.replica.order)))
	}
	return s.Subscriber.Subscribe(ctx, topic)
}

// Close implements message.Subscriber.
func (s *maintainedSubscriber) Close() error {
	err := s.Subscriber.Close()
	s.running.Wait()
	return err
}
