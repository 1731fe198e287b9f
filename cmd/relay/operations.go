package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/command"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

var (
	configSetting    = setting{"--config", "CQRSYNC_CONFIG"}
	masterSetting    = setting{"--master-config", "CQRSYNC_MASTER_CONFIG"}
	replicaSetting   = setting{"--replica-config", "CQRSYNC_REPLICA_CONFIG"}
	masterDBSetting  = setting{"--master-db", "CQRSYNC_MASTER_DB"}
	replicaDBSetting = setting{"--replica-db", "CQRSYNC_REPLICA_DB"}
)

func (o *options) configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Sources: cli.EnvVars("CQRSYNC_CONFIG"), Destination: &o.config, Value: "cqrsync.yaml",
		Usage: "the `FILE` that describes the tables",
	}
}

// queueFlag says who a replica is, where its file does not, or another replica has the same.
func (o *options) queueFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "queue", Sources: cli.EnvVars("CQRSYNC_QUEUE"), Destination: &o.queue,
		Usage: "the name of this replica service, if not that of the file",
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
		Box: func(ctx context.Context) (*outbox.Box, error) { return o.openBox(ctx, "") },
		Replica: func(ctx context.Context) (*replica.Replica, error) {
			o.batch, o.workers = loadBatch, loadWorkers
			return o.openReplica(ctx, "")
		},
		Models:   o.diffModels,
		Pair:     o.openPair,
		HasQueue: o.hasQueue,
	})
	for _, c := range commands {
		c.Flags = append(c.Flags, o.configFlag())
		if c.Category == "replica" || c.Name == "diff" {
			c.Flags = append(c.Flags, o.queueFlag())
		}
		if c.Name == "sync" {
			c.Flags = append(c.Flags, &cli.StringFlag{
				Name: "broker", Sources: cli.EnvVars("CQRSYNC_BROKER"), Destination: &o.broker,
				Usage: "with --queue: the broker that is asked for the queue",
			})
		}
		if c.Name == "diff" {
			c.Flags = append(c.Flags,
				&cli.StringFlag{
					Name: "master-config", Sources: cli.EnvVars("CQRSYNC_MASTER_CONFIG"), Destination: &o.masterConfig,
					Usage: "the `FILE` that describes the master's tables, if not that of --config",
				},
				&cli.StringFlag{
					Name: "replica-config", Sources: cli.EnvVars("CQRSYNC_REPLICA_CONFIG"), Destination: &o.replicaConfig,
					Usage: "the `FILE` that describes the replica's tables, if not that of --config",
				},
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

// openBox opens the master's side with one model, or with all.
func (o *options) openBox(ctx context.Context, model string) (*outbox.Box, error) {
	m, db, err := o.openTables(o.configOf(o.masterConfig, masterSetting), o.masterDB, masterDBSetting, model)
	if err != nil {
		return nil, err
	}
	return m.Box(ctx, db, outbox.Config{Schema: o.schema, TablePrefix: o.prefix})
}

// openReplica opens the replica's side with one model, or with all.
func (o *options) openReplica(ctx context.Context, model string) (*replica.Replica, error) {
	from := o.configOf(o.replicaConfig, replicaSetting)
	m, db, err := o.openTables(from, o.replicaDB, replicaDBSetting, model)
	if err != nil {
		return nil, err
	}
	if m.Queue == "" && o.queue == "" {
		return nil, wrong(from.wrong(errors.New("queue: not set, want the name of the replica service, " +
			"there or in CQRSYNC_QUEUE; load, replicate and the diffs also take --queue")))
	}
	log, err := o.logger()
	if err != nil {
		return nil, wrong(err)
	}
	return m.Replica(ctx, db, replica.Config{
		Queue: o.queue, Schema: o.schema, TablePrefix: o.prefix, Logger: log, Batch: o.batch, Workers: o.workers,
	})
}

// openPair opens both sides with one model.
func (o *options) openPair(ctx context.Context, model string) (*outbox.Box, *replica.Replica, error) {
	o.batch, o.workers = loadBatch, loadWorkers
	box, boxErr := o.openBox(ctx, model)
	rep, repErr := o.openReplica(ctx, model)
	return box, rep, errors.Join(boxErr, repErr)
}

// diffModels are the models of the replica.
func (o *options) diffModels(context.Context) ([]string, error) {
	from := o.configOf(o.replicaConfig, replicaSetting)
	m, err := manifest.Read(from.file)
	if err != nil {
		return nil, wrong(from.wrong(err))
	}
	return slices.Sorted(maps.Keys(m.Models)), nil
}

// hasQueue asks the broker of --broker.
func (o *options) hasQueue(ctx context.Context, queue string) (has bool, err error) {
	if o.broker == "" {
		return false, wrong(brokerSetting.wrong(errors.New("not set, want the broker that is asked whether the queue is there; " +
			"or give --unchecked-queue")))
	}
	subscriber, err := open.Subscriber(o.broker, queue, open.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return false, wrong(brokerSetting.wrong(err))
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	finder, finds := subscriber.(transport.QueueFinder)
	if !finds {
		return false, wrong(brokerSetting.wrong(errors.New("this kind of broker cannot be asked: give --unchecked-queue")))
	}
	return finder.HasQueue(ctx)
}

// configFile is a file that describes tables, and how the user named it.
type configFile struct {
	setting

	file string
}

// configOf is the file of one side, or else that of both.
func (o *options) configOf(file string, from setting) configFile {
	if file == "" {
		return configFile{configSetting, o.config}
	}
	return configFile{from, file}
}

// openTables reads a file and opens the database that url names, or else that of --db; close closes it.
func (o *options) openTables(
	config configFile, url string, from setting, model string,
) (*manifest.Manifest, *bun.DB, error) {
	m, err := manifest.Read(config.file)
	if err == nil && model != "" {
		m, err = m.Only(model)
	}
	if url == "" {
		url, from = o.db, dbSetting
	}
	dbErr := errors.New("not set, want postgres://USER:PASSWORD@HOST/NAME, mysql://… or sqlite://FILE")
	var db *bun.DB
	if url != "" {
		if db, dbErr = o.openOnce(url); dbErr == nil {
			dbErr = requireFile(url, db)
		}
	}
	return m, db, wrong(config.wrong(err), from.wrong(dbErr), o.checkNames())
}

// openOnce opens a database that is there, once.
func (o *options) openOnce(url string) (*bun.DB, error) {
	if db := o.databases[url]; db != nil {
		return db, nil
	}
	db, err := o.openDB(url, !create)
	if err != nil {
		return nil, err
	}
	if o.databases == nil {
		o.databases = map[string]*bun.DB{}
	}
	o.databases[url] = db
	return db, nil
}
