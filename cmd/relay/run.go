package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/monitor"
)

func (o *options) runFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "broker", Sources: cli.EnvVars("CQRSYNC_BROKER"), Destination: &o.broker,
			Usage: "where to publish: amqp://USER:PASSWORD@HOST:PORT/ or sqlite://FILE",
		},
		&cli.BoolFlag{
			Name: "migrate", Destination: &o.migrateFirst,
			Usage: "make or upgrade the outbox tables first",
		},
		&cli.StringFlag{
			Name: "health", Sources: cli.EnvVars("CQRSYNC_HEALTH"), Destination: &o.health,
			Usage: "serve /healthz, /readyz and /metrics on HOST:PORT, or on PORT of the loopback interface; nothing by default",
		},
	}
}

func (o *options) run(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	log, logErr := o.logger()
	s, dbErr := o.openStore()
	publisher, brokerErr := o.openPublisher(log)
	health, healthErr := o.listenHealth(ctx)
	if err := wrong(noArguments(cmd), dbErr, brokerErr, logErr, healthErr); err != nil {
		return err
	}
	mon, err := monitor.New(monitor.Config{})
	if err != nil {
		return err
	}
	rel, err := relay.New(s.DB(), mon.Publisher(publisher), relay.Config{Schema: o.schema, TablePrefix: o.prefix, Logger: log})
	if err != nil {
		return err
	}
	mon.Watch(rel)
	if o.migrateFirst {
		applied, err := s.Migrate(ctx, store.Outbox)
		if err != nil {
			return err
		}
		log.Info("outbox tables are up to date", "applied", applied)
	}
	log.Info("relay started", "database", database.Redact(o.db), "broker", database.Redact(o.broker))
	defer context.AfterFunc(ctx, func() {
		log.Info("stopping when what is in flight is finished; a second signal ends the process at once")
	})()
	err = runServing(ctx, rel, mon, health, log)
	stats := rel.Stats()
	log.Info("relay stopped", "published", stats.Published, "dead_letters", stats.DeadLetters)
	return err
}

// listenHealth opens the address of --health, nil if there is none; close closes it.
func (o *options) listenHealth(ctx context.Context) (net.Listener, error) {
	if o.health == "" {
		return nil, nil
	}
	listener, err := monitor.Listen(ctx, o.health)
	if err != nil {
		return nil, healthSetting.wrong(err)
	}
	o.closers = append(o.closers, closeOnce{listener})
	return listener, nil
}

// closeOnce is a listener that its server may have closed already.
type closeOnce struct{ net.Listener }

func (l closeOnce) Close() error {
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// runServing runs the relay and answers on health, if there is one, until the relay has stopped. Should the server fail
// the relay goes on: what must not stop is the messages.
func runServing(ctx context.Context, rel *relay.Relay, mon *monitor.Monitor, health net.Listener, log *slog.Logger) error {
	if health == nil {
		return rel.Run(ctx)
	}
	log.Info("health and metrics", "address", "http://"+health.Addr().String())
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := mon.Serve(serving, health); err != nil {
			log.Error("health and metrics are gone, the relay goes on", "error", err)
		}
	}()
	err := rel.Run(ctx)
	stop()
	<-served
	return err
}
