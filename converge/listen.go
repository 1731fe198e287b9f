package converge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"

	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/transport"
)

// inboxWindow is how many messages of a model may be in the hands of an answerer at once.
const inboxWindow = 20

// listen takes what replicas send about a model, until ctx ends.
func (a *Answerer) listen(ctx context.Context, inbox message.Subscriber, model string) {
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier: 2, MaxInterval: 30 * time.Second,
	}
	what := "what replicas send about " + model
	for ctx.Err() == nil {
		messages, err := subscribe(ctx, inbox, transport.MasterTopic(model))
		if err == nil {
			a.say(ctx, what, nil)
			pause.Reset()
			for m := range messages {
				a.hear(ctx, m.Payload)
				// Whatever became of it: who asked asks again, and a report is followed by the next.
				m.Ack()
			}
			err = errors.New("the subscription ended")
		}
		a.say(ctx, what, err)
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func subscribe(
	ctx context.Context, s message.Subscriber, topic string,
) (<-chan *message.Message, error) {
	if windowed, is := s.(transport.WindowSubscriber); is {
		return windowed.SubscribeWindow(ctx, topic, inboxWindow)
	}
	return s.Subscribe(ctx, topic)
}

// hear does what a replica says.
func (a *Answerer) hear(ctx context.Context, body []byte) {
	h, err := readHead(body)
	if err == nil {
		err = h.checkSender()
	}
	if err == nil {
		switch h.Kind {
		case kindReport:
			err = a.hearReport(ctx, body)
		case kindResync:
			err = a.hearResync(ctx, body)
		case kindBackfill:
			err = a.hearBackfill(ctx, body)
		case kindEntry:
			err = a.hearEntry(ctx, body)
		case kindCompared, kindSettled:
			err = a.hearVerifying(ctx, h, body)
		default:
			err = fmt.Errorf("%w: kind %.40q", errForeign, h.Kind)
		}
	}
	if err != nil && ctx.Err() == nil {
		a.counts.ignored.Add(1)
		if now := time.Now().Unix(); now-a.saidIgnored.Load() >= 60 { // whoever says it may say it often
			a.saidIgnored.Store(now)
			a.log.Warn("something that a replica said was ignored", "queue", h.Queue, "error", err)
		}
	}
}

// hearReport writes a report down.
func (a *Answerer) hearReport(ctx context.Context, body []byte) error {
	r, err := readReport(body)
	if err != nil {
		return err
	}
	a.counts.reports.Add(1)
	models := make([]string, len(r.Models))
	for i, m := range r.Models {
		models[i] = m.ID
	}
	if models = a.own(models); len(models) == 0 {
		return errors.New("a report about models that this master does not have")
	}
	noted := registry.Report{
		Queue: r.Queue, Instance: r.Instance, Models: models, Pace: seconds(r.Pace), Text: body,
	}
	if r.Echo != nil {
		noted.Echo = &registry.Echo{
			Sent: r.Echo.Sent, Through: r.Echo.Through, Held: max(seconds(r.Echo.Held), 0),
		}
	}
	isNew, err := a.registry.Note(ctx, noted)
	if err != nil {
		return err
	}
	if isNew {
		a.log.Info("a replica is known", "queue", r.Queue, "models", models)
	}
	return nil
}
