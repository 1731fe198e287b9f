// Package orders is the master service of the example: it owns orders, over HTTP, and every change
// it commits becomes a message for whoever follows the model "order".
//
// New is all of cqrsync that a master needs; the rest of the package is an ordinary service on bun.
package orders

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/outbox"
)

// Config is what may differ from one Orders service to another. The zero value is ready to use.
type Config struct {
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Triggers has the database capture the orders, whoever writes them.
	// Default: what goes through bun.
	Triggers bool
	// Outbox is what tracing needs of the outbox: Trace and Headers. Default: no tracing.
	Outbox outbox.Config
}

// Service is the Orders service on one database.
type Service struct {
	db  *bun.DB
	box *outbox.Box
	now func() time.Time
}

// New prepares the service: its tables, the outbox beside them, and Order as a tracked model.
func New(ctx context.Context, db *bun.DB, config Config) (*Service, error) {
	box, err := outbox.New(db, config.Outbox)
	if err != nil {
		return nil, err
	}
	options := []outbox.Option{outbox.Relations("Lines")}
	if config.Triggers {
		options = append(options, outbox.Triggers())
	}
	if err := outbox.Register[Order](box, "order", options...); err != nil {
		return nil, err
	}
	if err := createTables(ctx, db); err != nil {
		return nil, err
	}
	if err := box.Migrate(ctx); err != nil { // the triggers, if any, stand on the tables
		return nil, err
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Service{db: db, box: box, now: config.Now}, nil
}

// Box is the service's outbox.
func (s *Service) Box() *outbox.Box { return s.box }

// Serve answers HTTP until ctx ends.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	return web.Serve(ctx, listener, s.Handler())
}

// Handler is the service's HTTP interface.
func (s *Service) Handler() http.Handler {
	routes := &web.Routes{}
	routes.Handle("POST /orders", s.create)
	routes.Handle("GET /orders", s.list)
	routes.Handle("GET /orders/{id}", s.get)
	routes.Handle("PUT /orders/{id}", s.replace)
	routes.Handle("DELETE /orders/{id}", s.remove)
	routes.Handle("GET /ready", web.Ready(web.Database(s.db.PingContext)))
	return routes
}

func (s *Service) create(r *http.Request) (web.Response, error) {
	order, err := readOrder(r)
	if err != nil {
		return web.Response{}, err
	}
	order.UpdatedAt = s.now()
	err = s.box.RetryInTx(r.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		order.ID = 0 // a try before this one may have drawn one
		return Insert(ctx, tx, order)
	})
	return web.Response{
		Status: http.StatusCreated, Location: "/orders/" + strconv.FormatInt(order.ID, 10), Body: order,
	}, err
}

func (s *Service) get(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	order, err := Get(r.Context(), s.db, id)
	return web.Response{Body: order}, err
}

func (s *Service) replace(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	order, err := readOrder(r)
	if err != nil {
		return web.Response{}, err
	}
	order.ID, order.UpdatedAt = id, s.now()
	var written *Order
	err = s.box.RetryInTx(r.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if err := Update(ctx, tx, order); err != nil {
			return err
		}
		written, err = Get(ctx, tx, id)
		return err
	})
	return web.Response{Body: written}, err
}

func (s *Service) remove(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	err = s.box.RetryInTx(r.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		return Delete(ctx, tx, id)
	})
	return web.Response{}, err
}
