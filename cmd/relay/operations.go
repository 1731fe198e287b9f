package main

import (
	"context"
	"errors"

	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/command"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

var (
	configSetting    = setting{"--config", "CQRSYNC_CONFIG"}
	masterDBSetting  = setting{"--master-db", "CQRSYNC_MASTER_DB"}
	replicaDBSetting = setting{"--replica-db", "CQRSYNC_REPLICA_DB"}
)

func (o *options) configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Sources: cli.EnvVars("CQRSYNC_CONFIG"), Destination: &o.config, Value: "cqrsync.yaml",
		Usage: "the `FILE` that describes the tables",
	}
}

// What load works with: lines per transaction, of which nobody waits for the first, and transactions at once.
const (
	loadBatch   = 5000
	loadWorkers = 2
)

// operations are the commands of package operate, over the tables of cqrsync.yaml.
func (o *options) operations() []*cli.Command {
	commands := command.Commands(command.Source{
		Box: o.openBox,
		Replica: func(ctx context.Context) (*replica.Replica, error) {
			o.batch, o.workers = loadBatch, loadWorkers
			return o.openReplica(ctx)
		},
	})
	for _, c := range commands {
		c.Flags = append(c.Flags, o.configFlag())
		if c.Name == "diff" {
			c.Flags = append(c.Flags,
				&cli.StringFlag{
					Name: "master-db", Sources: cli.EnvVars("CQRSYNC_MASTER_DB"), Destination: &o.masterDB,
					Usage: "the master's database, if not that of --db",
				},
				&cli.StringFlag{
					Name: "replica-db", Sources: cli.EnvVars("CQRSYNC_REPLICA_DB"), Destination: &o.replicaDB,
					Usage: "the replica's database, if not that of --db",
				})
		}
		run := c.Action
		c.Action = func(ctx context.Context, cmd *cli.Command) (err error) {
			defer func() { err = errors.Join(err, o.close()) }()
			return run(ctx, cmd)
		}
	}
	return commands
}

func (o *options) openBox(ctx context.Context) (*outbox.Box, error) {
	m, db, err := o.openTables(o.masterDB, masterDBSetting)
	if err != nil {
		return nil, err
	}
	return m.Box(ctx, db, outbox.Config{Schema: o.schema, TablePrefix: o.prefix})
}

func (o *options) openReplica(ctx context.Context) (*replica.Replica, error) {
	m, db, err := o.openTables(o.replicaDB, replicaDBSetting)
	if err != nil {
		return nil, err
	}
	if m.Queue == "" && o.queue == "" {
		return nil, wrong(configSetting.wrong(errors.New("queue: not set, want the name of the replica service")))
	}
	log, err := o.logger()
	if err != nil {
		return nil, wrong(err)
	}
	return m.Replica(ctx, db, replica.Config{
		Queue: o.queue, Schema: o.schema, TablePrefix: o.prefix, Logger: log, Batch: o.batch, Workers: o.workers,
	})
}

// openTables reads cqrsync.yaml and opens the database that url names, or else that of --db; close closes it.
func (o *options) openTables(url string, from setting) (*manifest.Manifest, *bun.DB, error) {
	m, err := manifest.Read(o.config)
	if url == "" {
		url, from = o.db, dbSetting
	}
	dbErr := errors.New("not set, want postgres://USER:PASSWORD@HOST/NAME, mysql://… or sqlite://FILE")
	var db *bun.DB
	if url != "" {
		if db, dbErr = o.openDB(url, !create); dbErr == nil {
			dbErr = requireFile(url, db)
		}
	}
	return m, db, wrong(configSetting.wrong(err), from.wrong(dbErr), o.checkNames())
}
