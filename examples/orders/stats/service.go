// Package stats is a replica service of the example that mirrors a table: it keeps the columns of orders that it needs
// and answers questions about them from its own database.
//
// New is all of cqrsync that a mirror needs.
package stats

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
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

// Service is the Stats service on one database.
type Service struct {
	db  *bun.DB
	rep *replica.Replica
}

// New prepares the service: its table, the replica's ledger beside it, and Order as the mirror of "order". queue is the
// name under which the service follows its masters; all its processes share it.
func New(ctx context.Context, db *bun.DB, queue string) (*Service, error) {
	rep, err := replica.New(db, replica.Config{Queue: queue})
	if err != nil {
		return nil, err
	}
	if err := replica.Register[Order](rep, "order"); err != nil {
		return nil, err
	}
	if err := rep.Migrate(ctx); err != nil {
		return nil, err
	}
	return &Service{db: db, rep: rep}, createTables(ctx, db)
}

// Replicate keeps the mirror until ctx ends.
func (s *Service) Replicate(ctx context.Context, subscriber message.Subscriber) error {
	return s.rep.Run(ctx, subscriber)
}

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
	mux := http.NewServeMux()
	mux.Handle("GET /stats/orders", web.Handler(s.orders))
	mux.Handle("GET /ready", web.Ready(s.Running()))
	return mux
}

func createTables(ctx context.Context, db *bun.DB) error {
	if _, err := db.NewCreateTable().Model((*Order)(nil)).IfNotExists().Exec(ctx); err != nil {
		return fmt.Errorf("create table stats_orders: %w", err)
	}
	_, err := db.NewCreateIndex().Model((*Order)(nil)).Index("stats_orders_created_at").Column("created_at").
		IfNotExists().Exec(ctx)
	if err != nil {
		return fmt.Errorf("create index stats_orders_created_at: %w", err)
	}
	return nil
}
