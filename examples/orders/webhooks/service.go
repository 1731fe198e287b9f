// Package webhooks is a replica service of the example with a handler of its own: it keeps a copy of every order and
// tells subscribers what happened to it.
//
// New is all of cqrsync that a replica needs; orderChanged is what happens per message, in one transaction with the
// replica's ledger. The posts themselves are made afterwards, by Deliver, from a table: a transaction never waits for
// somebody else's server.
package webhooks

import (
	"context"
	"net"
	"net/http"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/replica"
)

// Service is the Webhooks service on one database.
type Service struct {
	db    *bun.DB
	rep   *replica.Replica
	posts *poster
}

// New prepares the service: its tables, the replica's ledger beside them, and the handler of "order". queue is the name
// under which the service follows its masters; all its processes share it.
func New(ctx context.Context, db *bun.DB, queue string, config Config) (*Service, error) {
	rep, err := replica.New(db, replica.Config{Queue: queue})
	if err != nil {
		return nil, err
	}
	if err := replica.Handle(rep, "order", orderChanged); err != nil {
		return nil, err
	}
	if err := rep.Migrate(ctx); err != nil {
		return nil, err
	}
	return &Service{db: db, rep: rep, posts: newPoster(db, config)}, createTables(ctx, db)
}

// Replicate keeps the copies and queues the deliveries until ctx ends.
func (s *Service) Replicate(ctx context.Context, subscriber message.Subscriber) error {
	return s.rep.Run(ctx, subscriber)
}

// Running is closed once nothing that is published from now on will be missed.
func (s *Service) Running() <-chan struct{} { return s.rep.Running() }

// Stats counts the messages so far, by what became of them.
func (s *Service) Stats() replica.Stats { return s.rep.Stats() }

// Deliver posts what is pending until ctx ends.
func (s *Service) Deliver(ctx context.Context) error {
	s.posts.run(ctx)
	return nil
}

// Serve answers HTTP until ctx ends.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	return web.Serve(ctx, listener, s.Handler())
}

// Handler is the service's HTTP interface.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /subscriptions", web.Handler(s.subscribe))
	mux.Handle("GET /subscriptions", web.Handler(s.subscriptions))
	mux.Handle("DELETE /subscriptions/{id}", web.Handler(s.unsubscribe))
	mux.Handle("GET /deliveries", web.Handler(s.deliveries))
	mux.Handle("POST /inbox", web.Handler(inbox))
	mux.Handle("GET /ready", web.Ready(s.Running()))
	return mux
}
