package nats

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

// routesLast is for how long it is believed that a topic has a queue. That one has none is never
// believed without looking again.
const routesLast = time.Second

// routes know which subjects have a consumer: a stream that keeps messages for its consumers alone
// acknowledges, and drops, what none is bound to.
type routes struct {
	mu      sync.Mutex
	streams map[string]*route
}

type route struct {
	looked  time.Time
	filters *filters
}

// bound says of each topic whether a queue takes it.
func (r *routes) bound(
	ctx context.Context, s *session, topics map[string]string,
) (map[string]bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	bound := make(map[string]bool, len(topics))
	fresh := map[string]bool{}
	for topic, subject := range topics {
		stream := streamOf(s.config.Stream, topic)
		known := r.streams[stream]
		stale := known == nil || time.Since(known.looked) > routesLast
		if !fresh[stream] && (stale || !known.filters.match(subject)) {
			var err error
			ctx, cancel := bounded.Timeout(ctx, s.config.ConnectTimeout, nil)
			known, err = ask(ctx, func(ctx context.Context) (*route, error) {
				return look(ctx, s.js, stream)
			})
			cancel()
			if err != nil {
				return nil, explain(ctx, err)
			}
			r.streams[stream], fresh[stream] = known, true
		}
		bound[topic] = known.filters.match(subject)
	}
	return bound, nil
}

// look lists the consumers of a stream. One that is not there has none.
func look(ctx context.Context, js jetstream.JetStream, name string) (*route, error) {
	began := time.Now()
	f := newFilters()
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return &route{looked: began, filters: f}, nil
	}
	if err != nil {
		return nil, err
	}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		f.add(info.Config)
	}
	if err := list.Err(); err != nil {
		return nil, err
	}
	return &route{looked: began, filters: f}, nil
}
