package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

var timeoutSetting = setting{flag: "--timeout"}

func (o *options) lanes() *cli.Command {
	return &cli.Command{
		Name:   "lanes",
		Usage:  "show the lanes and who publishes from them, or change their number",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "a JSON line for each instead of a table"}},
		Action: o.listLanes,
		Commands: []*cli.Command{{
			Name:      "set",
			ArgsUsage: "NUMBER",
			Usage:     "change the number of lanes, while writers write and relays run",
			Description: "It waits until few messages are unsent, has the relays give back all lanes, which takes up to their " +
				"lease, and moves what is left in one short transaction. A transaction that is under way then may be refused " +
				"as a conflict. If the time is over first, everything stays as it was.",
			Flags: []cli.Flag{&cli.DurationFlag{
				Name: "timeout", Destination: &o.timeout, Value: 5 * time.Minute, Usage: "how long to try",
			}},
			Action: o.setLanes,
		}},
	}
}

// laneObject is what lanes --json prints of each. Names are never changed, only added.
type laneObject struct {
	Lane  int    `json:"lane"`
	Owner string `json:"owner,omitempty"`
	Epoch int64  `json:"epoch"`
	// ExpiresSeconds is how long the lease runs, negative where it ran out.
	ExpiresSeconds float64 `json:"expires_seconds"`
}

func (o *options) listLanes(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Outbox); err != nil {
		return err
	}
	owners, err := s.LaneOwners(ctx)
	if err != nil {
		return err
	}
	if o.json {
		out := json.NewEncoder(o.stdout)
		for _, l := range owners {
			if err := out.Encode(laneObject{l.Lane, l.Owner, l.Epoch, l.Left.Seconds()}); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LANE\tEPOCH\tEXPIRES\tOWNER")
	for _, l := range owners {
		expires, owner := "-", "-"
		switch {
		case l.Owner == "":
		case l.Left < 0:
			expires, owner = "ran out "+(-l.Left).Round(time.Second).String()+" ago", oneLine(l.Owner)
		default:
			expires, owner = "in "+l.Left.Round(time.Millisecond).String(), oneLine(l.Owner)
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\n", l.Lane, l.Epoch, expires, owner)
	}
	return table.Flush()
}

func (o *options) setLanes(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	count, countErr := strconv.Atoi(cmd.Args().First())
	if countErr != nil || count < 1 || count > store.MaxLanes || cmd.Args().Len() != 1 {
		countErr = fmt.Errorf("give the number of lanes: 1 to %d", store.MaxLanes) // not shown: it may be a URL
	}
	var timeErr error
	if o.timeout <= 0 {
		timeErr = timeoutSetting.wrong(fmt.Errorf("%s, want a positive time", o.timeout))
	}
	s, dbErr := o.openStore()
	if err := wrong(countErr, timeErr, dbErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Outbox); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("%s (--timeout) are over", o.timeout))
	defer cancel()
	if err := s.SetLanes(ctx, count, func(what string) { fmt.Fprintln(o.stderr, what) }); err != nil {
		return err
	}
	fmt.Fprintf(o.stdout, "there are %d lanes\n", count)
	return nil
}
