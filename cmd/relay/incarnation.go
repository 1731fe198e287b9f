package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

func (o *options) incarnation() *cli.Command {
	return &cli.Command{
		Name:   "incarnation",
		Usage:  "show by which name replicas know the course of the master's history, or draw another one",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "one JSON object instead of lines"}},
		Action: o.showIncarnation,
		Commands: []*cli.Command{{
			Name:  "new",
			Usage: "draw another one, after the master's database was restored in a way that nobody could notice",
			Description: "Relays draw one by themselves after a failover, where a dump was restored, and where the database went back while " +
				"they were at work. Of a copied SQLite file, and of a snapshot of disks, nothing tells. Run this before the relay starts.",
			Flags: []cli.Flag{&cli.StringFlag{
				Name: "reason", Value: "an operator said that the database was restored", Destination: &o.reason, Usage: "why, for status",
			}},
			Action: o.drawIncarnation,
		}},
	}
}

// incarnationObject is what incarnation --json prints. Names are never changed, only added.
type incarnationObject struct {
	Incarnation string    `json:"incarnation"`
	Drawn       time.Time `json:"drawn"`
	Reason      string    `json:"reason"`
}

func (o *options) showIncarnation(ctx context.Context, cmd *cli.Command) error {
	return o.withIncarnation(ctx, cmd, func(s *store.Store) (store.Incarnation, error) { return s.Incarnation(ctx) })
}

func (o *options) drawIncarnation(ctx context.Context, cmd *cli.Command) error {
	return o.withIncarnation(ctx, cmd, func(s *store.Store) (store.Incarnation, error) { return s.DrawIncarnation(ctx, o.reason) })
}

func (o *options) withIncarnation(
	ctx context.Context, cmd *cli.Command, get func(*store.Store) (store.Incarnation, error),
) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Outbox); err != nil {
		return err
	}
	i, err := get(s)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(o.stdout).Encode(incarnationObject{i.ID, i.Drawn, i.Reason})
	}
	fmt.Fprintf(o.stdout, "%s since %s: %s\n", i.ID, i.Drawn.Format(time.RFC3339), oneLine(i.Reason))
	return nil
}
