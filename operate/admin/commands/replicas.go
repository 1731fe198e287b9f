package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) replicas() *cli.Command {
	return &cli.Command{
		Name: "replicas", Usage: "see the replicas that report to this master, and forget those " +
			"that are gone",
		Commands: []*cli.Command{
			{
				Name: "list", Usage: "show each replica: how late it is, what waits there, and " +
					"since when it is silent",
				Flags: []cli.Flag{jsonFlag("a JSON line for each instead of a table")}, Action: s.listReplicas,
			},
			{
				Name: "forget", ArgsUsage: "QUEUE",
				Usage: "end what is known of a replica; its queue stays on the broker", Action: s.forgetReplica,
			},
		},
	}
}

func (s Source) listReplicas(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd)
	if err != nil {
		return err
	}
	all, err := m.Replicas(ctx)
	if err != nil {
		return err
	}
	if !cmd.Bool("json") {
		return printReplicas(cmd, all)
	}
	for _, r := range all {
		if err := printJSON(cmd, r); err != nil {
			return err
		}
	}
	return nil
}

// printReplicas prints a line for each model of each replica.
func printReplicas(cmd *cli.Command, all []admin.KnownReplica) error {
	table := newTable(cmd)
	fmt.Fprintln(table,
		"QUEUE\tMODEL\tPROCESSES\tLAG\tWAITING\tDEAD LETTERS\tAPPLIED/S\tEQUAL THROUGH\tSTATE")
	for _, r := range all {
		for _, m := range r.Models {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%d\t%.1f\t%s\t%s\n", oneLine(r.Queue), m.Model,
				r.Instances,
				lagOf(r), m.Waiting, m.DeadLetters, m.AppliedPerSecond, throughOf(m), stateOf(r, m))
		}
	}
	return table.Flush()
}

func throughOf(m admin.ReplicaModel) string {
	if m.EqualThrough == nil {
		return "?"
	}
	return m.EqualThrough.Format(time.RFC3339)
}

func lagOf(r admin.KnownReplica) string {
	if r.LagSeconds == nil {
		return "?"
	}
	lag := time.Duration(*r.LagSeconds * float64(time.Second))
	if lag < time.Second {
		return lag.Round(10 * time.Millisecond).String()
	}
	return lag.Round(time.Second).String()
}

// vanishedFor is how long a queue that had vanished is shown as one that has.
const vanishedFor = 24 * time.Hour

func stateOf(r admin.KnownReplica, m admin.ReplicaModel) string {
	var states []string
	if r.Silent {
		states = append(states, "silent since "+r.Reported.Format(time.RFC3339))
	}
	if r.Vanished != nil && time.Since(*r.Vanished) < vanishedFor {
		states = append(states, "its queue vanished "+r.Vanished.Format(time.RFC3339))
	}
	states = append(states, backfillState(m.Backfill)...)
	for _, cause := range slices.Sorted(maps.Keys(m.Asked)) {
		states = append(states, fmt.Sprintf("asked for %d (%s)", m.Asked[cause], cause))
	}
	if m.Verified != "" && m.Verified != admin.VerifiedEqual {
		states = append(states, m.Verified)
	}
	if len(states) == 0 {
		return "reports"
	}
	return strings.Join(states, ", ")
}

// backfillState says how far a backfill is, and at its end only what is wrong.
func backfillState(b *admin.ReplicaBackfill) (states []string) {
	if b == nil {
		return nil
	}
	if b.State != admin.BackfillDone {
		state := "backfill "
		if b.State == admin.BackfillWaiting {
			state += "waits at "
		}
		if b.Total != nil {
			percent := min(100*float64(b.Sent)/float64(max(*b.Total, 1)), 100)
			state += fmt.Sprintf("%.0f %% (%s of ~%s)", percent, grouped(b.Sent), grouped(*b.Total))
		} else {
			state += "of " + grouped(b.Sent) + " so far"
		}
		if b.Error != "" && b.Bad == 0 {
			state += ": " + oneLine(b.Error)
		}
		states = append(states, state)
	}
	if b.Bad > 0 {
		states = append(states, fmt.Sprintf("%s rows cannot be sent: %s", grouped(b.Bad),
			oneLine(b.Error)))
	}
	return states
}

// grouped writes a number as people read it.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func (s Source) forgetReplica(ctx context.Context, cmd *cli.Command) error {
	var nameErr error
	if cmd.Args().Len() != 1 {
		nameErr = errors.New("give the name of one queue, as relay replicas list shows it")
	}
	t, err := s.open(ctx, false, nameErr)
	if err != nil {
		return err
	}
	m, err := t.Master(ctx)
	if err != nil {
		return err
	}
	queue := cmd.Args().First()
	known, err := m.ForgetReplica(ctx, queue)
	if err != nil {
		return err
	}
	if !known {
		return exit.Wrong(fmt.Errorf("no replica %q is known: see relay replicas list", queue))
	}
	fmt.Fprintf(cmd.Root().Writer, "forgot the replica %s; its queue is still on the broker\n",
		queue)
	return nil
}
