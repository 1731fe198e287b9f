package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// relayCommand is the relay that a demo kills: it says when it begins to publish, and ends with its standard input, so
// that it never outlives the demo.
func relayCommand(s *settings, out io.Writer) *cli.Command {
	return &cli.Command{
		Name:   "relay",
		Hidden: true,
		Action: func(ctx context.Context, _ *cli.Command) (err error) {
			slog.SetLogLoggerLevel(slog.LevelWarn)
			p := &process{settings: s, out: out}
			defer func() { err = errors.Join(err, p.close()) }()
			ordersDB, _, _, broker := p.places()
			if err := p.shared(ordersDB, broker); err != nil {
				return err
			}
			db, err := p.database(ordersDB.flag, p.ordersDB)
			if err != nil {
				return err
			}
			// A short lease: after a kill the next relay takes the lanes over when the lease of this one has run out.
			err = p.addRelay(db, relay.Config{LeaseTTL: 2 * time.Second}, func(publisher transport.BatchPublisher) transport.BatchPublisher {
				return &announcing{publisher, sync.OnceFunc(func() { fmt.Fprintln(out, "publishing") })}
			})
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			go func() {
				defer stop()
				_, _ = io.Copy(io.Discard, os.Stdin)
			}()
			return p.run(ctx)
		},
	}
}

// announcing says once that the first batch is on its way: the moment at which a kill does most harm.
type announcing struct {
	transport.BatchPublisher
	announce func()
}

func (a *announcing) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	a.announce()
	return a.BatchPublisher.PublishBatch(ctx, batch)
}
