// Package webhooks is a replica service of the example with a handler of its own: it keeps a copy
// of every order and tells subscribers what happened to it.
//
// New is all of cqrsync that a replica needs; orderChanged is what happens per message, in one
// transaction with the replica's ledger. The posts themselves are made afterwards, by Deliver, from
// a table: a transaction never waits for somebody else's server.
//
//	replicate.go      orders come in: the copy, and whom to tell
//	queues.go         deliveries go out: one queue per subscriber
//	client.go         one post, and what its answer means
//	targets.go        where subscribers may be
//	signature.go      how a subscriber knows that it was us, and that it heard it before
//	tidy.go           what is no longer needed
//	daily.go          a summary a day in place of every action
//	subscriptions.go, history.go, trigger.go: the HTTP interface
package webhooks

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/replica"
)

// Service is the Webhooks service on one database.
type Service struct {
	db     *bun.DB
	rep    *replica.Replica
	config Config
	tidied time.Time // when tidy last ran
}

// New prepares the service: its tables, the replica's ledger beside them, and the
// handler of "order". queue is the name under which the service follows its
// masters; all its processes share it.
func New(ctx context.Context, db *bun.DB, queue string, config Config) (*Service, error) {
	rep, err := replica.New(db, replica.Config{Queue: queue, Tracer: config.Tracer})
	if err != nil {
		return nil, err
	}
	s := &Service{db: db, rep: rep, config: config.withDefaults()}
	if err := replica.Handle(rep, "order", s.orderChanged); err != nil {
		return nil, err
	}
	if err := rep.Migrate(ctx); err != nil {
		return nil, err
	}
	return s, createTables(ctx, db)
}

// Replicate keeps the copies and queues the deliveries until ctx ends.
func (s *Service) Replicate(ctx context.Context, subscriber message.Subscriber) error {
	return s.rep.Run(ctx, subscriber)
}

// Replicas are what talks to the master.
func (s *Service) Replicas() []*replica.Replica { return []*replica.Replica{s.rep} }

// Running is closed once nothing that is published from now on will be missed.
func (s *Service) Running() <-chan struct{} { return s.rep.Running() }

// Stats counts the messages so far, by what became of them.
func (s *Service) Stats() replica.Stats { return s.rep.Stats() }

// Serve answers HTTP until ctx ends.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	return web.Serve(ctx, listener, s.Handler())
}

// Handler is the service's HTTP interface.
func (s *Service) Handler() http.Handler {
	routes := &web.Routes{}
	routes.Handle("POST /subscriptions", s.subscribe)
	routes.Handle("GET /subscriptions", s.subscriptions)
	routes.Handle("GET /subscriptions/{id}", s.subscription)
	routes.Handle("DELETE /subscriptions/{id}", s.unsubscribe)
	routes.Handle("POST /subscriptions/{id}/redeliver", s.redeliverFailed)
	routes.Handle("GET /deliveries", s.deliveries)
	routes.Handle("GET /deliveries/{id}", s.delivery)
	routes.Handle("POST /deliveries/{id}/redeliver", s.redeliver)
	routes.Handle("POST /orders/{id}/trigger", s.trigger)
	routes.Handle("GET /ready", web.Ready(web.Subscribed(s.Running()), web.Database(s.db.PingContext)))
	return routes
}
