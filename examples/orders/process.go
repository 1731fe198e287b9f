package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/examples/orders/demo"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/examples/orders/stats"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// process is what runs in this process. Everything is made before anything runs, so
// that what is wrong shows at once.
type process struct {
	*settings
	out      io.Writer
	runs     []func(context.Context) error
	closes   []func() error
	relay    *relay.Relay // of this process, and what answers replicas; nil without
	answerer *converge.Answerer
	replicas []<-chan struct{} // each closed once that replica has subscribed
	traces   *traces           // nil without --traces

	inboxAt net.Addr         // where the subscriber of this process listens; nil without one
	now     func() time.Time // a test's own clock; nil is time.Now
	hooks   webhooks.Config  // a test's own patience; zero is the default
}

// run runs everything until ctx ends or a part fails.
func (p *process) run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	for _, run := range p.runs {
		group.Go(func() error { return run(running) })
	}
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // asked to stop, and stopped
	}
	return err
}

// close closes what was opened, the newest first.
func (p *process) close() error {
	var errs []error
	for _, closeIt := range slices.Backward(p.closes) {
		errs = append(errs, closeIt())
	}
	return errors.Join(errs...)
}

// subscribed waits until the replicas in this process have subscribed. A broker keeps nothing for a
// queue that it has never heard of, so the first message must not leave before.
func (p *process) subscribed(ctx context.Context) error {
	for _, ready := range p.replicas {
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// runSubscribed adds what must not run before the replicas in this process have subscribed.
func (p *process) runSubscribed(run func(context.Context) error) {
	p.runs = append(p.runs, func(ctx context.Context) error {
		if err := p.subscribed(ctx); err != nil {
			return err
		}
		return run(ctx)
	})
}

func (p *process) database(flag, url string) (*bun.DB, error) {
	db, err := database.Open(url)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	p.closes = append(p.closes, db.Close)
	return db, nil
}

// shop is the three services in one process.
type shop struct {
	orders    *orders.Service
	webhooks  *webhooks.Service
	stats     *stats.Service
	databases demo.Databases
}

// addShop adds all three services, without their HTTP interfaces, on files of
// their own where they have no URLs.
func (p *process) addShop(ctx context.Context) (s shop, err error) {
	ordersDB, webhooksDB, statsDB, broker := p.places()
	cleanup, err := p.temporary(ordersDB, webhooksDB, statsDB, broker)
	p.closes = append(p.closes, cleanup)
	if err != nil {
		return s, err
	}
	p.announce(p.out, ordersDB, webhooksDB, statsDB, broker)
	if s.orders, s.databases.Orders, err = p.addOrders(ctx); err != nil {
		return s, err
	}
	if s.webhooks, s.databases.Webhooks, err = p.addWebhooks(ctx); err != nil {
		return s, err
	}
	s.stats, s.databases.Stats, err = p.addStats(ctx)
	return s, err
}

// addOrders adds the master, without its HTTP interface.
func (p *process) addOrders(ctx context.Context) (*orders.Service, *bun.DB, error) {
	db, err := p.database("orders-db", p.ordersDB)
	if err != nil {
		return nil, nil, err
	}
	config := orders.Config{Now: p.now}
	if p.traces != nil {
		config.Outbox.Trace, config.Outbox.Headers = p.traces.cqrs.Transaction, p.traces.cqrs.Headers
	}
	service, err := orders.New(ctx, db, config)
	if err != nil {
		return nil, nil, fmt.Errorf("orders: %w", err)
	}
	p.closes = append(p.closes, service.Box().Close)
	return service, db, nil
}

// addRelay adds the relay of Orders. decorate, if any, wraps its publisher.
func (p *process) addRelay(
	db *bun.DB, config relay.Config, decorate func(transport.BatchPublisher) transport.BatchPublisher,
) error {
	publisher, err := open.Publisher(p.broker, open.Options{})
	if err != nil {
		return fmt.Errorf("--broker: %w", err)
	}
	p.closes = append(p.closes, publisher.Close)
	if decorate != nil {
		publisher = decorate(publisher)
	}
	if p.traces != nil {
		publisher = p.traces.cqrs.Publisher(publisher)
	}
	rel, err := relay.New(db, publisher, config)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	p.relay = rel
	p.runSubscribed(rel.Run)
	return nil
}

// addWebhooks adds the replica with its deliveries, without its HTTP interface.
func (p *process) addWebhooks(ctx context.Context) (*webhooks.Service, *bun.DB, error) {
	db, err := p.database("webhooks-db", p.webhooksDB)
	if err != nil {
		return nil, nil, err
	}
	targets, err := p.targets()
	if err != nil {
		return nil, nil, err
	}
	config := p.hooks
	config.Targets, config.Now = targets, p.now
	if p.traces != nil {
		config.Tracer, config.Transport = p.traces.cqrs, p.traces.posting
	}
	service, err := webhooks.New(ctx, db, p.queuePrefix+"webhooks", config)
	if err != nil {
		return nil, nil, fmt.Errorf("webhooks: %w", err)
	}
	p.runs = append(p.runs, service.Deliver)
	return service, db, p.addReplica(p.queuePrefix+"webhooks", service)
}

// addStats adds the mirror, without its HTTP interface.
func (p *process) addStats(ctx context.Context) (*stats.Service, *bun.DB, error) {
	db, err := p.database("stats-db", p.statsDB)
	if err != nil {
		return nil, nil, err
	}
	config := stats.Config{Consumers: p.statsConsumers}
	if p.traces != nil {
		config.Tracer = p.traces.cqrs
	}
	service, err := stats.New(ctx, db, p.queuePrefix+"stats", config)
	if err != nil {
		return nil, nil, fmt.Errorf("stats: %w", err)
	}
	return service, db, p.addReplica(p.queuePrefix+"stats", service)
}

// listen adds a service's HTTP interface, prints its URL and returns it.
func (p *process) listen(
	ctx context.Context, name, addr string, serve func(context.Context, net.Listener) error,
) (url string, err error) {
	listener, err := p.bind(ctx, name, addr)
	if err != nil {
		return "", err
	}
	return p.serve(name, listener, serve), nil
}

func (p *process) bind(ctx context.Context, name, addr string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--%s-addr: %w", name, err)
	}
	p.closes = append(p.closes, func() error {
		if err := listener.Close(); !errors.Is(err, net.ErrClosed) { // serving closes it too
			return err
		}
		return nil
	})
	return listener, nil
}

func (p *process) serve(
	name string, listener net.Listener, serve func(context.Context, net.Listener) error,
) (url string) {
	p.runSubscribed(func(ctx context.Context) error { return serve(ctx, listener) })
	url = "http://" + listener.Addr().String()
	fmt.Fprintf(p.out, "%-9s %s\n", name, url)
	return url
}
