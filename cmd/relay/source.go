package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/admin/commands"
	"github.com/cqrsync/cqrsync/operate/command"
	"github.com/cqrsync/cqrsync/operate/exit"
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
		Name: "config", Sources: cli.EnvVars("CQRSYNC_CONFIG"), Destination: &o.config,
		Value: "cqrsync.yaml",
		Usage: "the `FILE` that describes the tables",
	}
}

func (o *options) brokerFlag(usage string) cli.Flag {
	return &cli.StringFlag{
		Name: "broker", Sources: cli.EnvVars("CQRSYNC_BROKER"), Destination: &o.broker, Usage: usage,
	}
}

// queueFlag says who a replica is, where its file does not, or another replica has the same.
func (o *options) queueFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "queue", Sources: cli.EnvVars("CQRSYNC_QUEUE"), Destination: &o.queue,
		Usage: "the name of this replica service, if not that of the file",
	}
}

// source opens what the commands of operate/command work on: the tables of cqrsync.yaml, and
// cqrsync's own.
func (o *options) source() command.Source {
	return command.Source{
		Box: func(ctx context.Context) (*outbox.Box, error) { return o.openBox(ctx, "") },
		Replica: func(ctx context.Context) (*replica.Replica, error) {
			return o.openReplica(ctx, "", loading)
		},
		Models:   o.diffModels,
		Pair:     o.openPair,
		HasQueue: o.hasQueue,
		Answerer: o.commandAnswerer,
		Admin: commands.Source{
			Open: func(_ context.Context, create bool) (*admin.Tables, error) {
				_, tables, err := o.openAdmin(create)
				if _, away := errors.AsType[*database.AwayError](err); away {
					return nil, err // no setting has to be wrong for that
				}
				return tables, exit.Wrong(err)
			},
			Layout: func() (string, admin.Config, error) {
				return dialectOf(o.db), o.names(), o.checkNames()
			},
			DeadLetterBox: o.openDeadLetterBox,
			DeadLetterFlags: []cli.Flag{o.brokerFlag("with --queue: the broker, " +
				"amqp://USER:PASSWORD@HOST:PORT/?exchange=cqrs"), o.configFlag()},
		},
	}
}

// loading is what load works with: lines per transaction, of which nobody waits for the first, and
// transactions at once.
var loading = replica.Config{Batch: 5000, Workers: 2}

// sourceFlags are those by which a command finds what source opens.
func (o *options) sourceFlags(c *cli.Command) (flags []cli.Flag) {
	if c.Category == "" { // it has them, or needs none
		return nil
	}
	flags = append(flags, o.configFlag())
	if c.Category == "replica" || c.Name == "diff" {
		flags = append(flags, o.queueFlag())
	}
	switch c.Name {
	case "backfill":
		flags = append(flags,
			o.brokerFlag(publishTo))
	case "sync":
		flags = append(flags, o.brokerFlag("with --queue: the broker that is asked for the queue"))
	case "diff":
		flags = append(flags,
			&cli.StringFlag{
				Name: "master-config", Sources: cli.EnvVars("CQRSYNC_MASTER_CONFIG"),
				Destination: &o.masterConfig,
				Usage:       "the `FILE` that describes the master's tables, if not that of --config",
			},
			&cli.StringFlag{
				Name: "replica-config", Sources: cli.EnvVars("CQRSYNC_REPLICA_CONFIG"),
				Destination: &o.replicaConfig,
				Usage:       "the `FILE` that describes the replica's tables, if not that of --config",
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
	return flags
}

// dialectOf is the dialect of a database URL, empty if there is none.
func dialectOf(rawURL string) string {
	switch scheme, _, _ := strings.Cut(rawURL, "://"); scheme {
	case "postgres", "postgresql":
		return "postgres"
	case "mysql", "sqlite":
		return scheme
	default:
		return ""
	}
}

// openBox opens the master's side with one model, or with all.
func (o *options) openBox(ctx context.Context, model string) (*outbox.Box, error) {
	m, db, err := o.openTables(o.configOf(o.masterConfig, masterSetting), o.masterDB,
		masterDBSetting, model)
	if err != nil {
		return nil, err
	}
	return m.Box(ctx, db, outbox.Config{Schema: o.schema, TablePrefix: o.prefix})
}

// openReplica opens the replica's side with one model, or with all.
func (o *options) openReplica(
	ctx context.Context, model string, c replica.Config,
) (*replica.Replica, error) {
	from := o.configOf(o.replicaConfig, replicaSetting)
	m, db, err := o.openTables(from, o.replicaDB, replicaDBSetting, model)
	if err != nil {
		return nil, err
	}
	// Of dead-letters, --queue is another thing.
	c.Queue = cmp.Or(o.queue, os.Getenv("CQRSYNC_QUEUE"))
	if m.Queue == "" && c.Queue == "" {
		return nil, exit.Wrong(from.wrong(errors.New("queue: not set, want the name of the " +
			"replica service, there or in CQRSYNC_QUEUE; load, replicate and the diffs also take " +
			"--queue")))
	}
	if c.Logger, err = o.logger(); err != nil {
		return nil, exit.Wrong(err)
	}
	c.Schema, c.TablePrefix = o.schema, o.prefix
	return m.Replica(ctx, db, c)
}

// openPair opens both sides with one model.
func (o *options) openPair(
	ctx context.Context, model string,
) (*outbox.Box, *replica.Replica, error) {
	box, boxErr := o.openBox(ctx, model)
	rep, repErr := o.openReplica(ctx, model, loading)
	err := errors.Join(boxErr, repErr)
	// under one heading, and once what is wrong on both sides
	if exit.IsUsage(boxErr) && exit.IsUsage(repErr) {
		err = exit.Wrong(err)
	}
	return box, rep, err
}

// diffModels are the models of the replica.
func (o *options) diffModels(context.Context) ([]string, error) {
	from := o.configOf(o.replicaConfig, replicaSetting)
	m, err := manifest.Read(from.file)
	if err != nil {
		return nil, exit.Wrong(from.wrong(err))
	}
	return slices.Sorted(maps.Keys(m.Models)), nil
}

// hasQueue asks the broker of --broker.
func (o *options) hasQueue(ctx context.Context, queue string) (has bool, err error) {
	if o.broker == "" {
		return false, exit.Wrong(brokerSetting.wrong(errors.New("not set, want the broker that " +
			"is asked whether the queue is there; or give --unchecked-queue")))
	}
	subscriber, err := o.subscribeSilently(queue)
	if err != nil {
		return false, exit.Wrong(brokerSetting.wrong(err))
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	finder, finds := subscriber.(transport.QueueFinder)
	if !finds {
		return false, exit.Wrong(brokerSetting.wrong(errors.New("this kind of broker cannot be " +
			"asked: give --unchecked-queue")))
	}
	return finder.HasQueue(ctx)
}

// openDeadLetterBox opens the dead letters that the broker keeps for a replica; close closes it.
func (o *options) openDeadLetterBox(queue string) (transport.DeadLetterBox, error) {
	if o.broker == "" {
		return nil, exit.Wrong(brokerSetting.wrong(errors.New("not set, want " + brokerURLs)))
	}
	subscriber, err := o.subscribeSilently(queue)
	if err != nil {
		return nil, exit.Wrong(brokerSetting.wrong(err))
	}
	o.closers = append(o.closers, subscriber)
	box, is := subscriber.(transport.DeadLetterBox)
	if !is {
		return nil, exit.Wrong(brokerSetting.wrong(errors.New("this kind of broker has no queue " +
			"of dead letters beside a replica's, want amqp://…; without --queue come those in " +
			"the replica's database")))
	}
	return box, nil
}

func (o *options) subscribeSilently(queue string) (message.Subscriber, error) {
	return open.Subscriber(o.broker, queue, open.Options{Logger: slog.New(slog.DiscardHandler)})
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

// openTables reads a file and opens the database that url names, or else that of --db; close closes
// it.
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
	dbErr := errNoDatabase
	var db *bun.DB
	if url != "" {
		if db, dbErr = o.openDB(url, false); dbErr == nil {
			dbErr = requireFile(url, db)
		}
	}
	return m, db, exit.Wrong(config.wrong(err), from.wrong(dbErr), o.checkNames())
}
