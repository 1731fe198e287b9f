package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/manifest/commands"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
)

// capture opens what the commands of manifest/commands work on.
func (o *options) capture() commands.Source {
	open := func(ctx context.Context) (*manifest.Capture, error) {
		from := o.configOf(o.masterConfig, masterSetting)
		m, db, err := o.openTables(from, o.masterDB, masterDBSetting, "")
		if err != nil {
			return nil, err
		}
		return m.Capture(ctx, db, outbox.Config{Schema: o.schema, TablePrefix: o.prefix})
	}
	return commands.Source{Flags: []cli.Flag{o.configFlag()}, Capture: open}
}

// manifest writes a first cqrsync.yaml.
func (o *options) manifest() *cli.Command {
	return &cli.Command{
		Name:  "manifest",
		Usage: "write a first cqrsync.yaml for the tables of --db to standard output",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			dbErr := errNoDatabase
			var db *bun.DB
			if o.db != "" {
				if db, dbErr = o.openDB(o.db, false); dbErr == nil {
					dbErr = requireFile(o.db, db)
				}
			}
			if err := exit.Wrong(noArguments(cmd), dbSetting.wrong(dbErr), o.checkNames()); err != nil {
				return err
			}
			text, err := manifest.Generate(ctx, db, o.prefix)
			if err == nil {
				_, err = io.WriteString(cmd.Root().Writer, text)
			}
			return err
		},
	}
}

// sweep sends, beside the relay, what triggers noted of writes that could not make their messages
// themselves.
func (o *options) sweep(ctx context.Context, log *slog.Logger) (func(context.Context), error) {
	if o.config == "" {
		return func(context.Context) {}, nil
	}
	m, db, err := o.openTables(o.configOf("", configSetting), "", dbSetting, "")
	if err != nil {
		return nil, err
	}
	config := outbox.Config{Schema: o.schema, TablePrefix: o.prefix, Logger: log}
	triggers, err := m.Capture(ctx, db, config)
	if err != nil {
		return nil, err
	}
	if installed, err := triggers.Installed(ctx); err != nil || !installed {
		return func(context.Context) {}, err // its tables are captured by services in Go
	}
	box, err := m.Box(ctx, db, config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		var both sync.WaitGroup
		both.Go(func() {
			watchTriggers(ctx, log, o.watch, func() (*manifest.Capture, error) {
				return m.Capture(ctx, db, config)
			})
		})
		both.Go(func() { sweepOn(ctx, log, box, o.poll) })
		both.Wait()
	}, nil
}

// watchEvery is how often a relay looks at the triggers. Migrations of a schema may take them away
// without a word: some tools make a table anew and rename it.
const watchEvery = time.Minute

// watchTriggers says at the start, and whenever it changes, what the triggers miss.
func watchTriggers(
	ctx context.Context, log *slog.Logger, every time.Duration, open func() (*manifest.Capture, error),
) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for ctx.Err() == nil {
		var found []string
		triggers, err := open() // the tables as they are now
		if err == nil {
			found, err = triggers.Check(ctx)
		}
		if err != nil && ctx.Err() == nil {
			found = []string{err.Error()}
		}
		if now := strings.Join(found, "; "); now != said {
			said = now
			if now == "" {
				log.Info("all tables are captured again as the file says")
			} else {
				log.Warn("a table is not captured as the file says: run relay capture install", "findings", now)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// sweepOn sweeps until ctx ends, whatever goes wrong meanwhile.
func sweepOn(ctx context.Context, log *slog.Logger, box *outbox.Box, every time.Duration) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		err := box.RunSweep(ctx, every)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Error("what triggers noted could not be sent; trying again", "error", err, "in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
