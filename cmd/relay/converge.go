package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay/monitor"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

var queuesSetting = setting{"--queue", "CQRSYNC_QUEUES"}

// answerFlags are those of the master's side of the conversation with its replicas.
func (o *options) answerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{
			Name: "queue", Sources: cli.EnvVars("CQRSYNC_QUEUES"), Destination: &o.queues,
			Usage: "with --config: replicas whose queues are made before anything is published, as " +
				"NAME for all models or NAME:MODEL+MODEL; those that have reported need not be named",
		},
		&cli.DurationFlag{
			Name: "verify-every", Sources: cli.EnvVars("CQRSYNC_VERIFY_EVERY"), Value: time.Hour,
			Destination: &o.verifyEvery,
			Usage: "with --config: how often all keys are compared with each replica; 0 only when " +
				"somebody asks (relay verify)",
		},
	}
}

// answer answers the replicas of a master, in a process of its own.
func (o *options) answer() *cli.Command {
	return &cli.Command{
		Name: "answer",
		Usage: "answer the replicas of the tables of cqrsync.yaml, until SIGINT or SIGTERM; relay run " +
			"--config does, too",
		Flags: append([]cli.Flag{
			o.configFlag(), o.brokerFlag(publishTo),
		}, o.answerFlags()...),
		Action: o.runAnswerer,
	}
}

func (o *options) runAnswerer(ctx context.Context, cmd *cli.Command) error {
	log, logErr := o.logger()
	publisher, brokerErr := o.openPublisher(log)
	if err := exit.Wrong(noArguments(cmd), brokerErr, logErr); err != nil {
		return err
	}
	answerer, err := o.openAnswerer(ctx, log, publisher)
	if err != nil {
		return err
	}
	log.Info("answering replicas",
		"database", database.Redact(o.db), "broker", database.Redact(o.broker))
	return answerer.Run(ctx)
}

// commandAnswerer is for commands that say something to a replica.
func (o *options) commandAnswerer(ctx context.Context) (*converge.Answerer, error) {
	log, logErr := o.loggerAt(slog.LevelWarn) // the command itself says how far it is
	publisher, brokerErr := o.openPublisher(log)
	if err := exit.Wrong(brokerErr, logErr); err != nil {
		return nil, err
	}
	return o.openAnswerer(ctx, log, publisher)
}

// verifyFlags are those of the replica's side of the verification.
func (o *options) verifyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "verify", Sources: cli.EnvVars("CQRSYNC_VERIFY"), Value: string(converge.Repair),
			Destination: &o.verify,
			Usage: "what to do about rows that are not as the master has them: repair, report, or " +
				"off to compare nothing",
		},
		&cli.DurationFlag{
			Name: "verify-grace", Sources: cli.EnvVars("CQRSYNC_VERIFY_GRACE"), Value: 30 * time.Second,
			Destination: &o.verifyGrace,
			Usage:       "how long a difference must last to be one: a change that is on its way is none",
		},
		&cli.StringSliceFlag{
			Name: "verify-content", Sources: cli.EnvVars("CQRSYNC_VERIFY_CONTENT"),
			Destination: &o.verifyContent,
			Usage: "CQRS ids of models of which the columns are compared, too, and not the revisions " +
				"alone: costs as much as reading all rows (default: those that the file says verify: " +
				"content of)",
		},
	}
}

// silentFlag ends the conversation between a master and its replicas.
func (o *options) silentFlag(usage string) cli.Flag {
	return &cli.BoolFlag{
		Name: "silent", Sources: cli.EnvVars("CQRSYNC_SILENT"), Destination: &o.silent, Usage: usage,
	}
}

// answers is what a relay does before it publishes, and beside it, for the replicas.
func (o *options) answers(
	ctx context.Context, log *slog.Logger, publisher message.Publisher, tables *admin.Tables,
	mon *monitor.Monitor,
) (before func(context.Context) error, beside func(context.Context), err error) {
	if o.config == "" && len(o.queues) > 0 {
		return nil, nil, exit.Wrong(queuesSetting.wrong(errors.New("--config is not given: its " +
			"models say what the queues are to receive")))
	}
	if o.config == "" || o.silent {
		return nil, func(context.Context) {}, nil
	}
	answerer, err := o.openAnswerer(ctx, log, publisher)
	if err != nil {
		return nil, nil, err
	}
	o.answerer = answerer
	mon.WatchReplicas(monitor.Replicas{Read: readReplicas(tables), Ready: answerer.Ready})
	return answerer.KeepQueues, func(ctx context.Context) {
		if err := answerer.Run(ctx); err != nil {
			log.Error("replicas are not answered, the relay goes on", "error", err)
		}
	}, nil
}

// openAnswerer makes the master's side of the conversation for the models of --config.
func (o *options) openAnswerer(
	ctx context.Context, log *slog.Logger, publisher message.Publisher,
) (*converge.Answerer, error) {
	m, db, err := o.openTables(o.configOf("", configSetting), "", dbSetting, "")
	if err != nil {
		return nil, err
	}
	queues, err := namedQueues(o.queues)
	if err != nil {
		return nil, exit.Wrong(queuesSetting.wrong(err))
	}
	box, err := m.Box(ctx, db, outbox.Config{Schema: o.schema, TablePrefix: o.prefix, Logger: log})
	if err != nil {
		return nil, err
	}
	return converge.NewAnswerer(box, converge.Broker{
		Publisher: publisher,
		Inbox: func() (message.Subscriber, error) {
			return open.Inbox(o.broker, open.Options{Logger: log})
		},
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(o.broker, name, open.Options{Logger: log})
			if err != nil {
				return nil, err
			}
			queue, is := subscriber.(converge.Queue)
			if !is {
				return nil, errors.Join(errors.New("this kind of broker cannot be asked for queues"),
					subscriber.Close())
			}
			return queue, nil
		},
	}, converge.AnswererConfig{Queues: queues, VerifyEvery: cmp.Or(o.verifyEvery, -1), Logger: log})
}

// namedQueues reads NAME and NAME:MODEL+MODEL.
func namedQueues(named []string) (map[string][]string, error) {
	queues := make(map[string][]string, len(named))
	for _, one := range named {
		name, models, some := strings.Cut(one, ":")
		if name == "" {
			return nil, fmt.Errorf("%q, want NAME or NAME:MODEL+MODEL", one)
		}
		if queues[name] = nil; some {
			queues[name] = slices.DeleteFunc(strings.Split(models, "+"), func(s string) bool {
				return s == ""
			})
			if len(queues[name]) == 0 {
				return nil, fmt.Errorf("%q, want NAME or NAME:MODEL+MODEL", one)
			}
		}
	}
	return queues, nil
}

// replicateReporting runs a replica and its side of the conversation.
func (o *options) replicateReporting(
	ctx context.Context, rep *replica.Replica, subscriber message.Subscriber, log *slog.Logger,
) error {
	publisher, err := open.Publisher(o.broker, open.Options{Logger: log, RequireQueue: true})
	if err != nil {
		return exit.Wrong(brokerSetting.wrong(err))
	}
	o.closers = append(o.closers, publisher)
	reporter, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Logger: log, Backfill: converge.Fill(o.backfill),
		Verify: converge.Verify(o.verify), Content: o.verifyContent, Grace: o.verifyGrace,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	reporting.Go(func() { err = reporter.Run(ctx) })
	runErr := rep.Run(ctx, subscriber)
	stop()
	reporting.Wait()
	return errors.Join(runErr, err)
}

// readReplicas reads what the health server shows of replicas.
func readReplicas(tables *admin.Tables) func(context.Context) ([]monitor.Replica, error) {
	return func(ctx context.Context) ([]monitor.Replica, error) {
		master, err := tables.Master(ctx)
		if err != nil {
			return nil, err
		}
		known, err := master.Replicas(ctx)
		all := make([]monitor.Replica, len(known))
		for i, k := range known {
			all[i] = monitor.Replica{Queue: k.Queue, Silent: k.Silent}
			if k.LagSeconds != nil {
				all[i].Lag = new(time.Duration(*k.LagSeconds * float64(time.Second)))
			}
			if k.Vanished != nil {
				all[i].Vanished = *k.Vanished
			}
			for _, m := range k.Models {
				shown := monitor.ReplicaModel{
					Model: m.Model, Waiting: m.Waiting, DeadLetters: m.DeadLetters,
					AppliedPerSecond: m.AppliedPerSecond,
				}
				if m.EqualThrough != nil {
					shown.EqualThrough = *m.EqualThrough
				}
				all[i].Models = append(all[i].Models, shown)
			}
		}
		return all, err
	}
}
