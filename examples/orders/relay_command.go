package main

import (
	"context"
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

// relayCommand is the relay that a demo kills. It says when it begins to publish, and ends with its
// standard input, so that it never outlives the demo.
func relayCommand(s *settings, out io.Writer) *cli.Command {
	return &cli.Command{Name: "relay", Hidden: true, Action: in(s, out, (*process).relayAlone)}
}

func (p *process) relayAlone(ctx context.Context) error {
	slog.SetLogLoggerLevel(slog.LevelWarn)
	ordersDB, _, _, broker := p.places()
	if err := p.shared(ordersDB, broker); err != nil {
		return err
	}
	db, err := p.database(ordersDB.flag, p.ordersDB)
	if err != nil {
		return err
	}
	// After a kill, the next relay waits for the end of this one's lease: let that be soon.
	config := relay.Config{LeaseTTL: 2 * time.Second}
	err = p.addRelay(db, config, func(publisher transport.BatchPublisher) transport.BatchPublisher {
		return &announcing{publisher, sync.OnceFunc(func() { fmt.Fprintln(p.out, "publishing") })}
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
}

// announcing says once that the first batch is on its way: the moment
// at which a kill does most harm.
type announcing struct {
	transport.BatchPublisher
	announce func()
}

func (a *announcing) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	a.announce()
	return a.BatchPublisher.PublishBatch(ctx, batch)
}

// Probe lets a relay that cannot reach the broker leave its lanes to others.
func (a *announcing) Probe(ctx context.Context) error {
	return transport.Probe(ctx, a.BatchPublisher)
}
