package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/cqrsync/cqrsync/examples/orders/demo"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
)

// patience is how long a demo waits for the services of --drive-only to subscribe.
const patience = 30 * time.Second

func demoCommand(s *settings, out, errOut io.Writer) *cli.Command {
	config := demo.Config{Out: out, Progress: terminal(errOut)}
	var driveOnly bool
	return &cli.Command{
		Name:  "demo",
		Usage: "write many orders, wait for the replicas, and compare them row by row",
		Description: "Databases that were used before are used as they are, and all their rows are " +
			"compared: start with\nempty ones, or with ones that were equal.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "orders", Value: 2000, Destination: &config.Orders,
				Usage: "how many orders to create"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Destination: &config.Seed,
				Usage: "chooses the transactions"},
			&cli.IntFlag{Name: "writers", Value: 4, Destination: &config.Writers,
				Usage: "how many goroutines write"},
			&cli.DurationFlag{Name: "timeout", Value: time.Minute, Destination: &config.Timeout,
				Usage: "how long the replicas have to become equal after the last write"},
			&cli.IntFlag{Name: "kill-relay", Destination: &config.KillRelay,
				Usage: "run the relay in a process of its own and kill it so often (SIGKILL)"},
			&cli.BoolFlag{Name: "drive-only", Destination: &driveOnly,
				Usage: "only write and compare: the services and the relay run elsewhere"},
		},
		Action: in(s, out, func(p *process, ctx context.Context) error {
			if err := config.Validate(); err != nil {
				return err
			}
			// A demo reports; what its parts log is of interest only where it is trouble.
			slog.SetLogLoggerLevel(slog.LevelWarn)
			if driveOnly {
				return p.drive(ctx, config)
			}
			return p.demo(ctx, config)
		}),
	}
}

// demo runs everything in this process, but for a relay that is to be killed.
func (p *process) demo(ctx context.Context, config demo.Config) error {
	shop, err := p.addShop(ctx)
	if err != nil {
		return err
	}
	config.Subscribed = p.subscribed
	config.Stats = map[string]func() replica.Stats{
		"webhooks": shop.webhooks.Stats, "stats": shop.stats.Stats,
	}
	if config.KillRelay > 0 {
		config.Relay = demo.NewRelayProcess(p.relayCommand)
		p.runSubscribed(config.Relay.Run)
		err = p.brokerLeavesProcess()
	} else {
		err = p.addRelay(shop.databases.Orders, relay.Config{Handover: shop.orders.Box().Handover()}, nil)
	}
	if err != nil {
		return err
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	finished := false
	p.runs = append(p.runs, func(ctx context.Context) error {
		defer stop() // the services have no more to do
		err := demo.Run(ctx, shop.orders, shop.databases, config)
		finished = err == nil
		return err
	})
	if err := p.run(ctx); err != nil {
		return err
	}
	if !finished {
		return errInterrupted
	}
	fmt.Fprint(p.out, whatNext)
	return nil
}

const whatNext = `next:
  go run ./examples/orders                      the services stay up, with lines to try
  go run ./examples/orders demo --kill-relay 5  the same again, while the relay is killed
  examples/orders/README.md                     an hour with them, request by request
`

var errInterrupted = errors.New("interrupted before the replicas were compared")

// drive writes and compares; everything else runs elsewhere.
func (p *process) drive(ctx context.Context, config demo.Config) error {
	ordersDB, webhooksDB, statsDB, _ := p.places()
	err := p.shared(ordersDB, webhooksDB, statsDB)
	if config.KillRelay > 0 {
		err = errors.Join(err, errors.New(
			"--kill-relay: the relay of --drive-only runs elsewhere, kill it there"))
	}
	if err != nil {
		return err
	}
	p.announce(p.out, ordersDB, webhooksDB, statsDB)
	master, db, err := p.addOrders(ctx)
	if err != nil {
		return err
	}
	databases := demo.Databases{Orders: db}
	if databases.Webhooks, err = p.database("webhooks-db", p.webhooksDB); err != nil {
		return err
	}
	if databases.Stats, err = p.database("stats-db", p.statsDB); err != nil {
		return err
	}
	config.Subscribed = func(ctx context.Context) error {
		return errors.Join(awaitReady(ctx, "webhooks", p.webhooksAddr),
			awaitReady(ctx, "stats", p.statsAddr))
	}
	err = demo.Run(ctx, master, databases, config)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return errInterrupted
	}
	return err
}

// awaitReady waits until a service in another process has subscribed.
func awaitReady(ctx context.Context, name, addr string) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	url := "http://" + addr + "/ready"
	for {
		request, err := http.NewRequestWithContext(waiting, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("--%s-addr %q: %w", name, addr, err)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close() // nothing in it is of interest
			if response.StatusCode == http.StatusNoContent {
				return nil
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		case <-waiting.Done():
			return fmt.Errorf("%s is not subscribed at %s: start it first (and give --%s-addr)",
				name, url, name)
		}
	}
}

// terminal returns out if it is one that shows a progress bar.
func terminal(out io.Writer) io.Writer {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return file
	}
	return nil
}

// relayCommand is this program as nothing but the relay. URLs go through the environment: arguments
// show in the list of processes, and URLs hold passwords.
func (p *process) relayCommand() *exec.Cmd {
	path, err := os.Executable()
	command := exec.Command(path, "relay") //nolint:noctx // RelayProcess.Run ends it, in its own way
	command.Err = errors.Join(command.Err, err)
	command.Env = append(os.Environ(), "EXAMPLE_ORDERS_DB="+p.ordersDB, "EXAMPLE_BROKER="+p.broker)
	command.Stderr = os.Stderr
	return command
}
