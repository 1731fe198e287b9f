package stats

import (
	"context"
	"net/http"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/replica"
)

// Replicate keeps the mirror until ctx ends, or a consumer fails.
func (s *Service) Replicate(ctx context.Context, subscriber message.Subscriber) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, consumer := range s.consumers {
		group.Go(func() error { return consumer.Run(ctx, subscriber) })
	}
	group.Go(func() error {
		for _, consumer := range s.consumers {
			select {
			case <-consumer.Running():
			case <-ctx.Done():
				return nil
			}
		}
		close(s.running)
		return nil
	})
	return group.Wait()
}

// Replicas are what talks to the master.
func (s *Service) Replicas() []*replica.Replica { return s.consumers }

// Running is closed once all consumers have subscribed.
func (s *Service) Running() <-chan struct{} { return s.running }

// Stats counts the messages of all consumers so far, by what became of them.
func (s *Service) Stats() (sum replica.Stats) {
	for _, consumer := range s.consumers {
		one := consumer.Stats()
		sum.Applied += one.Applied
		sum.Gaps += one.Gaps
		sum.Duplicates += one.Duplicates
		sum.Stale += one.Stale
		sum.Ignored += one.Ignored
		sum.Discarded += one.Discarded
		sum.Waiting += one.Waiting
		sum.DeadLettered += one.DeadLettered
		sum.Returned += one.Returned
	}
	return sum
}

// Consumers answers GET /stats/consumers: who has done how much since the service was started.
type Consumers struct {
	Queue     string     `json:"queue"`
	Applied   int64      `json:"applied"`
	Consumers []Consumer `json:"consumers"`
}

// Consumer is what one consumer of the queue did with its messages.
type Consumer struct {
	Applied      int64 `json:"applied"`
	Duplicates   int64 `json:"duplicates"`
	Stale        int64 `json:"stale"`
	Waiting      int64 `json:"waiting"`
	DeadLettered int64 `json:"dead_lettered"`
}

func (s *Service) consumerCounts(r *http.Request) (web.Response, error) {
	if _, err := web.Parameters(r); err != nil {
		return web.Response{}, err
	}
	answer := Consumers{Queue: s.queue}
	for _, consumer := range s.consumers {
		one := consumer.Stats()
		answer.Applied += one.Applied
		answer.Consumers = append(answer.Consumers, Consumer{
			Applied: one.Applied, Duplicates: one.Duplicates, Stale: one.Stale,
			Waiting: one.Waiting, DeadLettered: one.DeadLettered,
		})
	}
	return web.Response{Body: answer}, nil
}
