package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/admin/commands"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/monitor"
	"github.com/cqrsync/cqrsync/relay/wake"
)

func (o *options) runFlags() []cli.Flag {
	return append([]cli.Flag{
		o.brokerFlag(publishTo),
		&cli.StringFlag{
			// not CQRSYNC_CONFIG: that may be the file of a replica
			Name: "config", Destination: &o.config,
			Usage: "the `FILE` that describes tables with triggers: what they note of writes is " +
				"sent, too; none by default",
		},
		o.silentFlag("do not answer replicas: neither list them, nor make their queues, nor send " +
			"what they ask for"),
		&cli.BoolFlag{
			Name: "migrate", Destination: &o.migrateFirst,
			Usage: "make or upgrade the outbox tables first",
		},
		&cli.DurationFlag{
			Name: "poll", Sources: cli.EnvVars("CQRSYNC_POLL"), Destination: &o.poll,
			Usage: "the longest time between two looks into an idle outbox; it matters where no " +
				"wake-up comes (default: 250ms)",
		},
		&cli.DurationFlag{
			Name: "shutdown-timeout", Sources: cli.EnvVars("CQRSYNC_SHUTDOWN_TIMEOUT"),
			Destination: &o.shutdown,
			Usage: "how long, after the first signal, the broker may take to confirm what is in " +
				"flight (default: 10s)",
		},
		&cli.StringFlag{
			Name: "listen-db", Sources: cli.EnvVars("CQRSYNC_LISTEN_DB"), Destination: &o.listenDB,
			Usage: "where to LISTEN for wake-ups, if --db leads through a proxy such as " +
				"PgBouncer: the database's own address",
		},
		o.healthFlag(), o.tracesFlag(),
	}, slices.Concat(o.answerFlags(), o.uiFlags(), commands.DiagnosisFlags())...)
}

func (o *options) run(ctx context.Context, cmd *cli.Command) error {
	log, logErr := o.logger()
	db, tables, dbErr := o.openAdmin(o.migrateFirst)
	publisher, brokerErr := o.openPublisher(log)
	listener, listenErr := o.openListener(log)
	health, healthErr := o.listenHealth(ctx)
	ui, uiErr := o.listenUI(ctx)
	tracing, tracesErr := o.openTracing(ctx, "cqrsync-relay", log)
	var diagnosisErr error
	o.diagnosis, diagnosisErr = commands.DiagnosisConfig(cmd)
	if err := exit.Wrong(noArguments(cmd), dbErr, brokerErr, logErr, listenErr, healthErr, uiErr,
		diagnosisErr, tracesErr, o.checkTimes()); err != nil {
		return err
	}
	mon, err := monitor.New(monitor.Config{})
	if err != nil {
		return err
	}
	if o.migrateFirst {
		applied, err := tables.Migrate(ctx, admin.OutboxSide)
		if err != nil {
			return err
		}
		log.Info("outbox tables are up to date", "applied", applied)
	}
	sweep, err := o.sweep(ctx, log)
	if err != nil {
		return err
	}
	before, answer, err := o.answers(ctx, log, publisher, tables, mon)
	if err != nil {
		return err
	}
	publishing := mon.Publisher(publisher)
	if tracing != nil {
		publishing = tracing.Publisher(publishing)
	}
	rel, err := relay.New(db, publishing, relay.Config{
		Schema: o.schema, TablePrefix: o.prefix, Logger: log, PollInterval: o.poll,
		ShutdownTimeout: o.shutdown,
		Wake:            listener.Wake(), Before: before,
	})
	if err != nil {
		return err
	}
	mon.Watch(rel)
	mon.WatchTroubles(o.readTroubles(tables))
	page, err := o.dashboard(ui, tables, rel, log)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	log.Info("relay started", "database", database.Redact(o.db), "broker",
		database.Redact(o.broker))
	defer context.AfterFunc(ctx, func() {
		log.Info("stopping when what is in flight is finished; a second signal ends the process " +
			"at once")
	})()
	err = runBeside(ctx, rel.Run, listener.Run, serve(mon, health, log), sweep, answer,
		tell(rel, tables, log), page)
	stats := rel.Stats()
	log.Info("relay stopped", "published", stats.Published, "dead_letters", stats.DeadLetters)
	return err
}

// collectAt: a relay makes much garbage and keeps little, at most a few batches. Collecting it four
// times as seldom saves a quarter of its processor time, for some tens of megabytes.
const collectAt = 400

// openListener makes the listener for wake-ups, which connects later.
func (o *options) openListener(log *slog.Logger) (*wake.Listener, error) {
	listener, err := wake.NewListener(cmp.Or(o.listenDB, o.db), wake.Config{
		Schema: o.schema, TablePrefix: o.prefix, Logger: log,
	})
	if err != nil && o.listenDB == "" {
		return nil, nil // openAdmin says it
	}
	return listener, listenSetting.wrong(err)
}

// checkTimes checks the flags that are times; 0 means the default.
func (o *options) checkTimes() error {
	var errs []error
	for s, value := range map[setting]time.Duration{pollSetting: o.poll,
		shutdownSetting: o.shutdown} {
		if value < 0 {
			errs = append(errs, s.wrong(fmt.Errorf("%s, want a positive time", value)))
		}
	}
	return errors.Join(errs...)
}

func (o *options) healthFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "health", Sources: cli.EnvVars("CQRSYNC_HEALTH"), Destination: &o.health,
		Usage: "serve /healthz, /readyz and /metrics on HOST:PORT, or on PORT of the loopback " +
			"interface; nothing by default",
	}
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

// runBeside runs a relay or a replica, and tasks beside it until it has stopped.
func runBeside(
	ctx context.Context, run func(context.Context) error, tasks ...func(context.Context),
) error {
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, task := range tasks {
		running.Go(func() { task(beside) })
	}
	err := run(ctx)
	stop()
	running.Wait()
	return err
}

// tell says in the database what the relay waits for, for whoever looks from elsewhere.
func tell(rel *relay.Relay, tables *admin.Tables, log *slog.Logger) func(context.Context) {
	return func(ctx context.Context) {
		diagnosis.Tell(ctx, tables, "the relay "+rel.ID(), func() (all []admin.Outage) {
			for _, o := range rel.Outages() {
				all = append(all, admin.Outage{What: o.What, Since: o.Since, Error: o.Err.Error()})
			}
			return all
		}, log)
	}
}

// served is a monitor, of a relay or of a replica.
type served interface {
	Serve(ctx context.Context, listener net.Listener) error
}

// serve answers on the address of --health. Should that fail the relay goes on: what must not stop
// is the messages.
func serve(mon served, health net.Listener, log *slog.Logger) func(context.Context) {
	return func(ctx context.Context) {
		if health == nil {
			return
		}
		log.Info("health and metrics", "address", "http://"+health.Addr().String())
		if err := mon.Serve(ctx, health); err != nil {
			log.Error("health and metrics are gone, all else goes on", "error", err)
		}
	}
}

// readTroubles counts what is wrong by kind, as relay status has it.
func (o *options) readTroubles(tables *admin.Tables) func(context.Context) map[string]int {
	return func(ctx context.Context) map[string]int {
		found := map[string]int{}
		for _, kind := range diagnosis.Kinds() {
			found[string(kind)] = 0
		}
		for _, t := range diagnosis.Read(ctx, tables, o.diagnosis).Troubles {
			found[string(t.Kind)]++
		}
		return found
	}
}
