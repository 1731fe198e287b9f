package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// Run subscribes to every registered model and applies what arrives, until ctx ends; then it finishes the messages in
// flight and returns nil. It fails at once on registration errors and where a table is missing. It does not need the
// broker to start: while the subscriber reports transport.ErrUnavailable, Run asks again.
//
// Processes of one queue may run at the same time, and so may several Runs of one Replica.
func (r *Replica) Run(ctx context.Context, subscriber message.Subscriber) error {
	models, err := r.start()
	if err != nil {
		return err
	}
	if err := r.checkTables(ctx, models); err != nil && ctx.Err() == nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c := consumer{r, models}
	var missing atomic.Int64
	missing.Store(int64(len(models)))
	failed := make(chan error, len(models))
	var followers sync.WaitGroup
	for model := range models {
		subscribed := sync.OnceFunc(func() {
			if missing.Add(-1) == 0 {
				r.nowRunning.Do(func() { close(r.running) })
			}
		})
		followers.Go(func() {
			if err := c.follow(ctx, subscriber, model, subscribed); err != nil {
				failed <- err
				stop()
			}
		})
	}
	followers.Wait()
	close(failed)
	return <-failed // the first, or nil
}

// Running is closed once every subscription exists: from then on, no message is missed for want of a queue.
func (r *Replica) Running() <-chan struct{} { return r.running }

// Handler is the replica as a handler for a Watermill Router: nil means done with (applied, without effect, or
// parked), an error means to deliver the message again. It takes messages of every registered model, and ends the
// time of registration; a registration error is what it then returns for each message.
func (r *Replica) Handler() message.NoPublishHandlerFunc {
	models, err := r.start()
	if err != nil {
		return func(*message.Message) error { return err }
	}
	c := consumer{r, models}
	return func(delivery *message.Message) error { return c.consume(delivery.Context(), delivery) }
}

// AddHandlers adds a handler for each registered model to a Watermill Router, under the name "<queue>.<model>". Retry
// and poison queue middleware is not needed.
func (r *Replica) AddHandlers(router *message.Router, subscriber message.Subscriber) error {
	models, err := r.start()
	if err != nil {
		return err
	}
	existing := router.Handlers()
	for model := range models {
		if name := r.handlerName(model); existing[name] != nil {
			return fmt.Errorf("the router has a handler %q already: add a replica's handlers once", name)
		}
	}
	handler := r.Handler()
	for model := range models {
		router.AddConsumerHandler(r.handlerName(model), model, subscriber, handler)
	}
	return nil
}

func (r *Replica) handlerName(model string) string { return r.config.Queue + "." + model }

// checkTables fails where every message would: better at the start than in the dead letters.
func (r *Replica) checkTables(ctx context.Context, models map[string]*binding) error {
	pending, err := r.store.Pending(ctx, store.Replica)
	if err != nil {
		return fmt.Errorf("check the replica's tables: %w", err)
	}
	if len(pending) > 0 {
		return fmt.Errorf("the replica's tables lack %s: call Migrate, or run relay migrate", strings.Join(pending, ", "))
	}
	var errs []error
	for _, b := range models {
		if b.check != nil {
			errs = append(errs, b.check(ctx, r.db))
		}
	}
	return errors.Join(errs...)
}

// follow consumes one topic until ctx ends, and subscribes again where the subscription ends before. Any model may
// arrive on any topic; what counts is the message.
func (c consumer) follow(ctx context.Context, subscriber message.Subscriber, topic string, subscribed func()) error {
	pause := c.backOff()
	for ctx.Err() == nil {
		messages, err := subscriber.Subscribe(ctx, topic)
		switch {
		case err == nil:
			subscribed()
			if c.drain(ctx, messages) {
				pause.Reset()
			}
			err = errors.New("the subscription ended")
		case !errors.Is(err, transport.ErrUnavailable) && ctx.Err() == nil:
			return fmt.Errorf("subscribe to %s: %w", topic, err)
		}
		c.wait(ctx, pause.NextBackOff(), topic, err)
	}
	return nil
}

// wait logs why a topic has no subscription and returns after d, or at once when ctx has ended.
func (c consumer) wait(ctx context.Context, d time.Duration, topic string, reason error) {
	if ctx.Err() != nil {
		return
	}
	c.log.Warn("not subscribed; trying again", "topic", topic, "in", d, "error", reason)
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// drain consumes messages, one after the other, until the channel closes or ctx ends, and says whether there were any.
func (c consumer) drain(ctx context.Context, messages <-chan *message.Message) (some bool) {
	for {
		select {
		case <-ctx.Done():
			return some
		case delivery, open := <-messages:
			if !open {
				return some
			}
			some = true
			c.answer(ctx, delivery)
		}
	}
}

func (c consumer) answer(ctx context.Context, delivery *message.Message) {
	// The delivery's own context may know nothing of ours, and the pauses between tries must end with it.
	deliveryCtx, cancel := context.WithCancel(delivery.Context())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if err := c.consume(deliveryCtx, delivery); err != nil {
		c.log.Warn("message returned to the broker", "uuid", delivery.UUID, "error", err)
		delivery.Nack()
		return
	}
	delivery.Ack()
}
