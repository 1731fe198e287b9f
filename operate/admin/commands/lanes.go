package commands

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
)

func (s Source) lanes() *cli.Command {
	return &cli.Command{
		Name:   "lanes",
		Usage:  "show the lanes and who publishes from them, or change their number",
		Flags:  []cli.Flag{jsonFlag("a JSON line for each instead of a table")},
		Action: s.listLanes,
		Commands: []*cli.Command{{
			Name:      "set",
			ArgsUsage: "NUMBER",
			Usage:     "change the number of lanes, while writers write and relays run",
			Description: "It waits until few messages are unsent, has the relays give back all " +
				"lanes, which takes up to their lease, and moves what is left in one short " +
				"transaction. A transaction that is under way then may be refused as a conflict. " +
				"If the time is over first, everything stays as it was.",
			Flags: []cli.Flag{&cli.DurationFlag{
				Name: "timeout", Value: 5 * time.Minute, Usage: "how long to try",
			}},
			Action: s.setLanes,
		}},
	}
}

// laneObject is what lanes --json prints of each.
type laneObject struct {
	Lane  int    `json:"lane"`
	Owner string `json:"owner,omitempty"`
	Epoch int64  `json:"epoch"`
	// ExpiresSeconds is how long the lease runs, negative where it ran out.
	ExpiresSeconds float64 `json:"expires_seconds"`
}

func (s Source) listLanes(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd)
	if err != nil {
		return err
	}
	lanes, err := m.Lanes(ctx)
	if err != nil {
		return err
	}
	if !cmd.Bool("json") {
		return printLanes(cmd, lanes)
	}
	for _, l := range lanes {
		if err := printJSON(cmd, laneObject{l.Number, l.Owner, l.Epoch,
			l.Left.Seconds()}); err != nil {
			return err
		}
	}
	return nil
}

func printLanes(cmd *cli.Command, lanes []admin.Lane) error {
	if err := printOwners(cmd, lanes); err != nil {
		return err
	}
	fmt.Fprintln(cmd.Root().Writer)
	table := newTable(cmd)
	fmt.Fprintln(table, "LANE\tEPOCH\tEXPIRES\tOWNER")
	for _, l := range lanes {
		expires, owner := "-", "-"
		switch {
		case l.Owner == "":
		case l.Left < 0:
			expires, owner = "ran out "+(-l.Left).Round(time.Second).String()+
				" ago", oneLine(l.Owner)
		default:
			expires, owner = "in "+l.Left.Round(time.Millisecond).String(), oneLine(l.Owner)
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\n", l.Number, l.Epoch, expires, owner)
	}
	return table.Flush()
}

func (s Source) setLanes(ctx context.Context, cmd *cli.Command) error {
	count, countErr := strconv.Atoi(cmd.Args().First())
	if countErr != nil || count < 1 || count > admin.MaxLanes || cmd.Args().Len() != 1 {
		// not shown: it may be a URL
		countErr = fmt.Errorf("give the number of lanes: 1 to %d", admin.MaxLanes)
	}
	timeout := cmd.Duration("timeout")
	var timeErr error
	if timeout <= 0 {
		timeErr = of("--timeout", fmt.Errorf("%s, want a positive time", duration(timeout)))
	}
	t, err := s.open(ctx, false, countErr, timeErr)
	if err != nil {
		return err
	}
	m, err := t.Master(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%s (--timeout) are over",
		duration(timeout)))
	defer cancel()
	if err := m.SetLanes(ctx, count, func(what string) {
		fmt.Fprintln(stderr(cmd),
			what)
	}); err != nil {
		return err
	}
	fmt.Fprintf(stdout(cmd), "there are %d lanes\n", count)
	return nil
}

// printOwners prints how many lanes each relay has: more than one look tells of 64 lanes.
func printOwners(cmd *cli.Command, lanes []admin.Lane) error {
	live, over := map[string]int{}, map[string]int{}
	for _, l := range lanes {
		switch {
		case l.Owner == "":
			over[""]++
		case l.Left < 0:
			over[l.Owner]++
		default:
			live[l.Owner]++
		}
	}
	table := newTable(cmd)
	fmt.Fprintln(table, "LANES\tLEASE\tOWNER")
	for _, owner := range slices.Sorted(maps.Keys(live)) {
		fmt.Fprintf(table, "%d\truns\t%s\n", live[owner], oneLine(owner))
	}
	for _, owner := range slices.Sorted(maps.Keys(over)) {
		if owner == "" {
			fmt.Fprintf(table, "%d\t-\t-\n", over[owner])
		} else {
			fmt.Fprintf(table, "%d\tran out\t%s\n", over[owner], oneLine(owner))
		}
	}
	return table.Flush()
}
