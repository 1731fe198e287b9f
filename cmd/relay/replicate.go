package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/replica/monitor"
	"github.com/cqrsync/cqrsync/transport/open"
)

func (o *options) replicateFlags() []cli.Flag {
	return append([]cli.Flag{
		o.configFlag(),
		o.brokerFlag(subscribeTo),
		o.queueFlag(),
		o.silentFlag("do not talk to the master: neither report to it, nor ask it for what is " +
			"lacking"),
		&cli.StringFlag{
			Name: "backfill", Sources: cli.EnvVars("CQRSYNC_BACKFILL"), Destination: &o.backfill,
			Usage: "if-empty asks the master, at the first start, for the models that the replica " +
				"has nothing of; none asks for nothing (default: what the file says as backfill, " +
				"else none)",
		},
		&cli.BoolFlag{
			Name: "migrate", Destination: &o.migrateFirst,
			Usage: "make or upgrade the replica's ledger first",
		},
		o.healthFlag(), o.tracesFlag(),
	}, o.verifyFlags()...)
}

// replicate keeps the tables of cqrsync.yaml equal to their master's, in any service that has a
// database.
func (o *options) replicate(ctx context.Context, cmd *cli.Command) error {
	log, logErr := o.logger()
	config := replica.Config{}
	tracing, tracesErr := o.openTracing(ctx, "cqrsync-replica", log)
	if tracing != nil {
		config.Tracer = tracing
	}
	rep, repErr := o.openReplica(ctx, "", config)
	if repErr != nil && !exit.IsUsage(repErr) {
		return repErr
	}
	var brokerErr error
	if o.broker == "" || strings.HasPrefix(o.broker, "memory:") {
		brokerErr = brokerSetting.wrong(errors.New("want " + brokerURLs))
	}
	health, healthErr := o.listenHealth(ctx)
	if err := exit.Wrong(noArguments(cmd), repErr, brokerErr, logErr, healthErr,
		tracesErr, o.checkBackfill(), o.checkVerify()); err != nil {
		return err
	}
	subscriber, err := open.Subscriber(o.broker, rep.Queue(), open.Options{Logger: log})
	if err != nil {
		return exit.Wrong(brokerSetting.wrong(err))
	}
	o.closers = append(o.closers, subscriber)
	if o.migrateFirst {
		if err := rep.Migrate(ctx); err != nil {
			return err
		}
	}
	log.Info("replica started", "queue", rep.Queue(), "config", o.config,
		"database", database.Redact(o.db), "broker", database.Redact(o.broker))
	err = runBeside(ctx, func(ctx context.Context) error {
		if o.silent {
			return rep.Run(ctx, subscriber)
		}
		return o.replicateReporting(ctx, rep, subscriber, log)
	}, serve(monitor.New(rep), health, log))
	log.Info("replica stopped", "counts", fmt.Sprintf("%+v", rep.Stats()))
	return err
}

var backfillSetting = setting{"--backfill", "CQRSYNC_BACKFILL"}

// checkBackfill checks what the replica asks its master for, and takes it from the file where no
// flag says so.
func (o *options) checkBackfill() error {
	switch o.backfill {
	case "":
		m, err := manifest.Read(o.config)
		if err == nil && m.Backfill == manifest.IfEmpty {
			o.backfill = string(converge.IfEmpty)
		}
		// A file that cannot be read was said to be so.
	case string(converge.IfEmpty), string(converge.NoFill):
	default:
		return backfillSetting.wrong(fmt.Errorf("%q, want if-empty or none", o.backfill))
	}
	if o.silent && o.backfill == string(converge.IfEmpty) {
		return backfillSetting.wrong(errors.New("if-empty asks the master, and --silent does not: " +
			"leave out one of them"))
	}
	return nil
}

var (
	verifySetting        = setting{"--verify", "CQRSYNC_VERIFY"}
	verifyGraceSetting   = setting{"--verify-grace", "CQRSYNC_VERIFY_GRACE"}
	verifyContentSetting = setting{"--verify-content", "CQRSYNC_VERIFY_CONTENT"}
)

// checkVerify checks what is compared with the master, and takes from the file of which models the
// columns are, where no flag says so.
func (o *options) checkVerify() error {
	var errs []error
	switch converge.Verify(o.verify) {
	case converge.Repair, converge.ReportOnly, converge.NoVerify:
	default:
		errs = append(errs, verifySetting.wrong(fmt.Errorf("%q, want %s, %s or %s", o.verify,
			converge.Repair, converge.ReportOnly, converge.NoVerify)))
	}
	if o.verifyGrace <= 0 || o.verifyGrace > time.Hour {
		errs = append(errs, verifyGraceSetting.wrong(fmt.Errorf("%s, want a time such as 30s, at most "+
			"an hour", o.verifyGrace)))
	}
	m, err := manifest.Read(o.config)
	if err != nil {
		return errors.Join(errs...) // that was said
	}
	if len(o.verifyContent) == 0 {
		o.verifyContent = m.VerifiedContent()
	}
	for _, model := range o.verifyContent {
		if _, is := m.Models[model]; !is {
			errs = append(errs, verifyContentSetting.wrong(fmt.Errorf("%q, want one of %s", model,
				strings.Join(slices.Sorted(maps.Keys(m.Models)), ", "))))
		}
	}
	return errors.Join(errs...)
}
