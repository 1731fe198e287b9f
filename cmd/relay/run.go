package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/relay"
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
	}
}

func (o *options) run(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	log, logErr := o.logger()
	s, dbErr := o.openStore()
	publisher, brokerErr := o.openPublisher(log)
	if err := wrong(noArguments(cmd), dbErr, brokerErr, logErr); err != nil {
		return err
	}
	rel, err := relay.New(s.DB(), publisher, relay.Config{Schema: o.schema, TablePrefix: o.prefix, Logger: log})
	if err != nil {
		return err
	}
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
	err = rel.Run(ctx)
	stats := rel.Stats()
	log.Info("relay stopped", "published", stats.Published, "dead_letters", stats.DeadLetters)
	return err
}
