// Package stats is a replica service of the example that mirrors a table: it keeps the columns of
// orders that it needs and answers questions about them from its own database.
//
// New is all of cqrsync that a mirror needs.
package stats

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/replica"
)

// Order is the mirror: what Stats wants to know of an order, in a table of its own.
type Order struct {
	bun.BaseModel `bun:"table:stats_orders"`

	ID        int64     `bun:",pk"`
	Status    string    `bun:",notnull"`
	Total     int64     `bun:",notnull"` // cents
	CreatedAt time.Time `bun:",notnull"`
}

// Config is what may differ from one Stats service to another. The zero value is ready to use.
type Config struct {
	// Consumers is how many consumers of the queue run in this process. Default: 1. They share the
	// messages, as do processes; the replica's ledger keeps the order of each key.
	Consumers int
	// Tracer sees what becomes of the messages. Default: none.
	Tracer replica.Tracer
}

// Service is the Stats service on one database.
type Service struct {
	db        *bun.DB
	queue     string
	consumers []*replica.Replica
	running   chan struct{}
}

// New prepares the service: its table, the replica's ledger beside it, and Order as the
// mirror of "order". queue is the name under which the service follows its masters; all its
// consumers and processes share it.
func New(ctx context.Context, db *bun.DB, queue string, config Config) (*Service, error) {
	s := &Service{db: db, queue: queue, running: make(chan struct{})}
	for range max(config.Consumers, 1) {
		rep, err := replica.New(db, replica.Config{Queue: queue, Tracer: config.Tracer})
		if err != nil {
			return nil, err
		}
		if err := replica.Register[Order](rep, "order"); err != nil {
			return nil, err
		}
		s.consumers = append(s.consumers, rep)
	}
	if err := s.consumers[0].Migrate(ctx); err != nil {
		return nil, err
	}
	return s, createTables(ctx, db)
}

// Serve answers HTTP until ctx ends.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	return web.Serve(ctx, listener, s.Handler())
}

// Handler is the service's HTTP interface.
func (s *Service) Handler() http.Handler {
	routes := &web.Routes{}
	routes.Handle("GET /stats/orders", s.orders)
	routes.Handle("GET /stats/consumers", s.consumerCounts)
	routes.Handle("GET /ready", web.Ready(web.Subscribed(s.Running()), web.Database(s.db.PingContext)))
	return routes
}

func createTables(ctx context.Context, db *bun.DB) error {
	if _, err := db.NewCreateTable().Model((*Order)(nil)).IfNotExists().Exec(ctx); err != nil {
		return fmt.Errorf("create table stats_orders: %w", err)
	}
	_, err := db.NewCreateIndex().Model((*Order)(nil)).
		Index("stats_orders_created_at").Column("created_at").IfNotExists().Exec(ctx)
	if err != nil {
		return fmt.Errorf("create index stats_orders_created_at: %w", err)
	}
	return nil
}
