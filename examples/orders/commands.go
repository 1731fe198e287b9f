package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/relay"
)

// newCommand is the command line.
func newCommand(out, errOut io.Writer) *cli.Command {
	s := &settings{}
	// with makes a command's action of a function that adds parts to a process and lets them run.
	with := func(add func(ctx context.Context, p *process) error) cli.ActionFunc {
		return func(ctx context.Context, _ *cli.Command) (err error) {
			p := &process{settings: s, out: out}
			defer func() { err = errors.Join(err, p.close()) }()
			if err := add(ctx, p); err != nil {
				return err
			}
			return p.run(ctx)
		}
	}
	return &cli.Command{
		Name:      "orders",
		Usage:     "cqrsync's example: orders, and two services that keep copies of them",
		Flags:     s.flags(),
		Writer:    out,
		ErrWriter: errOut,
		Action:    with(addAll),
		Commands: []*cli.Command{
			{Name: "all", Usage: "all three services and the relay in this process (default)", Action: with(addAll)},
			{Name: "orders", Usage: "the Orders service alone; cmd/relay is its relay", Action: with(addOrdersAlone)},
			{Name: "webhooks", Usage: "the Webhooks service alone", Action: with(addWebhooksAlone)},
			{Name: "stats", Usage: "the Stats service alone", Action: with(addStatsAlone)},
			demoCommand(s, out, errOut),
			relayCommand(s, out),
		},
		// main prints the error, once, and chooses the exit code.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
}

func addAll(ctx context.Context, p *process) error {
	shop, err := p.addShop(ctx)
	if err != nil {
		return err
	}
	if err := p.addRelay(shop.databases.Orders, relay.Config{Wake: shop.orders.Box().Wake()}, nil); err != nil {
		return err
	}
	ordersURL, err := p.listen(ctx, "orders", p.ordersAddr, shop.orders.Serve)
	if err != nil {
		return err
	}
	webhooksURL, err := p.listen(ctx, "webhooks", p.webhooksAddr, shop.webhooks.Serve)
	if err != nil {
		return err
	}
	statsURL, err := p.listen(ctx, "stats", p.statsAddr, shop.stats.Serve)
	if err != nil {
		return err
	}
	fmt.Fprint(p.out, tryIt(ordersURL, webhooksURL, statsURL, time.Now()))
	return nil
}

// tryIt is what to paste into another terminal.
func tryIt(ordersURL, webhooksURL, statsURL string, today time.Time) string {
	day := today.UTC().Format(time.DateOnly)
	return fmt.Sprintf(`try:
  curl -d '{"url": "%[2]s/inbox"}' %[2]s/subscriptions
  curl -d '{"customer": "Ada", "lines": [{"sku": "book", "quantity": 2, "price": 1250}]}' %[1]s/orders
  curl '%[3]s/stats/orders?from=%[4]s&to=%[4]s'
  curl '%[2]s/deliveries?order=1'
Ctrl-C ends it.
`, ordersURL, webhooksURL, statsURL, day)
}

func addOrdersAlone(ctx context.Context, p *process) error {
	ordersDB, _, _, broker := p.places()
	if err := errors.Join(p.shared(ordersDB), p.inDir(broker)); err != nil {
		return err
	}
	service, _, err := p.addOrders(ctx)
	if err != nil {
		return err
	}
	_, err = p.listen(ctx, "orders", p.ordersAddr, service.Serve)
	fmt.Fprintf(p.out, "relay     CQRSYNC_DB='%s' CQRSYNC_BROKER='%s' go run ./cmd/relay run\n",
		database.Redact(p.ordersDB), database.Redact(cmp.Or(p.broker, "amqp://…")))
	return err
}

func addWebhooksAlone(ctx context.Context, p *process) error {
	_, webhooksDB, _, broker := p.places()
	if err := p.shared(webhooksDB, broker); err != nil {
		return err
	}
	service, _, err := p.addWebhooks(ctx)
	if err != nil {
		return err
	}
	_, err = p.listen(ctx, "webhooks", p.webhooksAddr, service.Serve)
	return err
}

func addStatsAlone(ctx context.Context, p *process) error {
	_, _, statsDB, broker := p.places()
	if err := p.shared(statsDB, broker); err != nil {
		return err
	}
	service, _, err := p.addStats(ctx)
	if err != nil {
		return err
	}
	_, err = p.listen(ctx, "stats", p.statsAddr, service.Serve)
	return err
}
