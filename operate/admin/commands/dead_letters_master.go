package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
)

func (s Source) listOfMaster(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd, checkDeadLetters(cmd, false)...)
	if err != nil {
		return err
	}
	limit := cmd.Int("limit")
	if cmd.Bool("json") {
		return m.DeadLetters(ctx, deadLetterFilter(cmd), limit, func(d admin.DeadLetter) error {
			d.DeadLetterContent = nil
			return printJSON(cmd, d)
		})
	}
	table := newTable(cmd)
	var listed int
	var last int64
	err = m.DeadLetters(ctx, deadLetterFilter(cmd), limit, func(d admin.DeadLetter) error {
		if listed == 0 {
			fmt.Fprintln(table, "ID\tMODEL\tKEY\tREVISION\tSIGNAL\tGIVEN UP\tATTEMPTS\tERROR")
		}
		listed++
		last = d.ID
		fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%s\t%s\t%d\t%s\n",
			d.ID, d.Model, oneLine(d.Key), d.Revision, d.Signal,
			d.Dead.Format(time.RFC3339), d.Attempts, oneLine(d.Error))
		return nil
	})
	if err := errors.Join(err, table.Flush()); err != nil {
		return err
	}
	switch listed {
	case 0:
		fmt.Fprintln(stdout(cmd), "no dead letters")
	case limit:
		fmt.Fprintf(stdout(cmd), "there may be more: --after %d\n", last)
	}
	return nil
}

func (s Source) showOfMaster(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd, checkIDs(cmd))
	if err != nil {
		return err
	}
	shown := 0
	err = m.DeadLetters(ctx, deadLetterFilter(cmd), 0, func(d admin.DeadLetter) error {
		shown++
		if cmd.Bool("json") {
			return printJSON(cmd, d)
		}
		return printDeadLetter(cmd, d)
	})
	if err != nil {
		return err
	}
	return checkFound(cmd, shown)
}

func printDeadLetter(cmd *cli.Command, d admin.DeadLetter) error {
	table := newTable(cmd)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	line("id", fmt.Sprint(d.ID))
	line("message", fmt.Sprintf("%s of %s %s, revision %d",
		d.Signal, d.Model, oneLine(d.Key), d.Revision))
	line("queue", d.Queue)
	line("written", d.Created.Format(time.RFC3339Nano))
	line("given up", fmt.Sprintf("%s, after %d attempts",
		d.Dead.Format(time.RFC3339Nano), d.Attempts))
	line("error", fmt.Sprintf("%q", d.Error))
	line("correlation id", d.CorrelationID)
	for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
		line("header", fmt.Sprintf("%q: %q", name, d.Headers[name]))
	}
	if d.Expires != nil {
		line("expires", d.Expires.Format(time.RFC3339Nano))
	}
	line("data", string(d.Data))
	line("previous", string(d.Previous))
	line("meta", string(d.Meta))
	return table.Flush()
}

func (s Source) retryOfMaster(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd, checkDeadLetters(cmd, true)...)
	if err != nil {
		return err
	}
	var all retries
	err = m.RetryDeadLetters(ctx, deadLetterFilter(cmd), func(d admin.RetriedDeadLetter) error {
		object := all.note(d, "")
		switch {
		case cmd.Bool("json"):
			return printJSON(cmd, object)
		case d.Err != nil:
			fmt.Fprintf(stdout(cmd), "%s %s, revision %d: %s\n",
				d.Model, oneLine(d.Key), d.Revision, object.Reason)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !cmd.Bool("json") {
		fmt.Fprintf(stdout(cmd), "%d sent again, %d superseded\n", all.done, all.stayed)
	}
	return all.end(", because newer messages of their keys were sent: relay dead-letters purge " +
		"forgets them")
}

func (s Source) purgeOfMaster(ctx context.Context, cmd *cli.Command) error {
	m, err := s.master(ctx, cmd, checkDeadLetters(cmd, true)...)
	if err != nil {
		return err
	}
	n, err := m.PurgeDeadLetters(ctx, deadLetterFilter(cmd))
	return printPurged(cmd, n, err)
}
