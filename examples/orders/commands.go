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
	"github.com/cqrsync/cqrsync/examples/orders/inbox"
	"github.com/cqrsync/cqrsync/relay"
)

// newCommand is the command line.
func newCommand(out, errOut io.Writer) *cli.Command {
	s := &settings{}
	root := &cli.Command{
		Name:      "orders",
		Usage:     "cqrsync's example: orders, and two services that keep copies of them",
		Flags:     s.flags(),
		Writer:    out,
		ErrWriter: errOut,
		Action:    in(s, out, (*process).all),
		Commands: []*cli.Command{
			{Name: "all", Usage: "all three services and the relay in this process (default)",
				Action: in(s, out, (*process).all)},
			{Name: "orders", Usage: "the Orders service alone; cmd/relay is its relay",
				Action: in(s, out, (*process).ordersAlone)},
			{Name: "webhooks", Usage: "the Webhooks service alone",
				Action: in(s, out, (*process).webhooksAlone)},
			{Name: "stats", Usage: "the Stats service alone", Action: in(s, out, (*process).statsAlone)},
			demoCommand(s, out, errOut),
			relayCommand(s, out),
		},
		// main prints the error, once, and chooses the exit code.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
	for _, command := range append(root.Commands, root) {
		command.OnUsageError = func(_ context.Context, _ *cli.Command, err error, _ bool) error {
			return err
		}
	}
	return root
}

// in makes an action of what runs in a process.
func in(s *settings, out io.Writer, run func(*process, context.Context) error) cli.ActionFunc {
	return func(ctx context.Context, command *cli.Command) (err error) {
		if command.Args().Present() {
			return fmt.Errorf("%q is not a command, see --help", command.Args().First())
		}
		p := &process{settings: s, out: out}
		defer func() { err = errors.Join(err, p.close()) }()
		if err := p.openTraces(ctx); err != nil {
			return err
		}
		return run(p, ctx)
	}
}

func (p *process) all(ctx context.Context) error {
	// The subscriber comes first: where it is decides where deliveries may go.
	letterbox, err := p.bind(ctx, "inbox", p.inboxAddr)
	if err != nil {
		return err
	}
	p.inboxAt = letterbox.Addr()
	shop, err := p.addShop(ctx)
	if err != nil {
		return err
	}
	config := relay.Config{Handover: shop.orders.Box().Handover()}
	if err := p.addRelay(shop.databases.Orders, config, nil); err != nil {
		return err
	}
	if err := p.addAnswerer(shop.orders); err != nil {
		return err
	}
	ordersURL, err := p.listen(ctx, "orders", p.ordersAddr, p.serveOrders(shop.orders))
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
	if p.now == nil {
		p.now = time.Now
	}
	subscriber := inbox.New(shop.webhooks.Secrets, p.now)
	inboxURL := p.serve("inbox", letterbox, subscriber.Serve)
	if err := p.addDashboard(ctx, shop.databases.Orders); err != nil {
		return err
	}
	fmt.Fprint(p.out, tryIt(ordersURL, webhooksURL, statsURL, inboxURL, p.now()))
	return p.run(ctx)
}

// tryIt is what to paste into another terminal.
func tryIt(ordersURL, webhooksURL, statsURL, inboxURL string, today time.Time) string {
	day := today.UTC().Format(time.DateOnly)
	return fmt.Sprintf(`try:
  curl -d '{"url": "%[4]s/inbox"}' %[2]s/subscriptions
  curl -d '{"customer": "Ada", "lines": [{"sku": "book", "quantity": 2, "price": 1250}]}' `+
		`%[1]s/orders
  curl '%[3]s/stats/orders?from=%[5]s&to=%[5]s'
  curl '%[2]s/deliveries?order=1'
  curl -X POST %[2]s/orders/1/trigger
  curl %[4]s/inbox
look at the dashboard, and go on with examples/orders/README.md
Ctrl-C ends it.
`, ordersURL, webhooksURL, statsURL, inboxURL, day)
}

func (p *process) ordersAlone(ctx context.Context) error {
	ordersDB, _, _, broker := p.places()
	if err := errors.Join(p.shared(ordersDB), p.inDir(broker)); err != nil {
		return err
	}
	service, _, err := p.addOrders(ctx)
	if err != nil {
		return err
	}
	if p.broker != "" {
		if err := p.addAnswerer(service); err != nil {
			return err
		}
	}
	if _, err := p.listen(ctx, "orders", p.ordersAddr, p.serveOrders(service)); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "relay     CQRSYNC_DB='%s' CQRSYNC_BROKER='%s' go run ./cmd/relay run\n",
		database.Redact(p.ordersDB), database.Redact(cmp.Or(p.broker, "amqp://…")))
	return p.run(ctx)
}

func (p *process) webhooksAlone(ctx context.Context) error {
	_, webhooksDB, _, broker := p.places()
	if err := p.shared(webhooksDB, broker); err != nil {
		return err
	}
	service, _, err := p.addWebhooks(ctx)
	if err != nil {
		return err
	}
	if _, err := p.listen(ctx, "webhooks", p.webhooksAddr, service.Serve); err != nil {
		return err
	}
	return p.run(ctx)
}

func (p *process) statsAlone(ctx context.Context) error {
	_, _, statsDB, broker := p.places()
	if err := p.shared(statsDB, broker); err != nil {
		return err
	}
	service, _, err := p.addStats(ctx)
	if err != nil {
		return err
	}
	if _, err := p.listen(ctx, "stats", p.statsAddr, service.Serve); err != nil {
		return err
	}
	return p.run(ctx)
}
