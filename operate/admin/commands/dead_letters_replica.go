package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) listOfReplica(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkDeadLetters(cmd, false)...)
	if err != nil {
		return err
	}
	letters, err := r.DeadLetters(ctx, deadLetterFilter(cmd), cmd.Int("limit"))
	if err != nil {
		return err
	}
	return printReplicaDeadLetters(cmd, letters)
}

// printReplicaDeadLetters prints a list.
func printReplicaDeadLetters(cmd *cli.Command, letters []admin.ReplicaDeadLetter) error {
	if cmd.Bool("json") {
		for _, d := range letters {
			if err := printJSON(cmd, d.WithoutContent()); err != nil {
				return err
			}
		}
		return nil
	}
	if len(letters) == 0 {
		fmt.Fprintln(stdout(cmd), "no dead letters")
		return nil
	}
	// A broker knows how often they were tried, and not since when they are dead.
	onBroker := letters[0].Dead.IsZero()
	table := newTable(cmd)
	heading := "GIVEN UP"
	if onBroker {
		heading = "RETRIES"
	}
	fmt.Fprintf(table, "ID\tMODEL\tKEY\tREVISION\t%s\tERROR\n", heading)
	for _, d := range letters {
		end := d.Dead.Format(time.RFC3339)
		if onBroker {
			end = known(d.Retries)
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n",
			d.ID, oneLine(d.Model), oneLine(d.Key), known(d.Revision), end, oneLine(d.Error))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(letters) == cmd.Int("limit") {
		fmt.Fprintf(stdout(cmd), "there may be more: --after %d\n", letters[len(letters)-1].ID)
	}
	return nil
}

func (s Source) showOfReplica(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkIDs(cmd))
	if err != nil {
		return err
	}
	letters, err := r.DeadLetters(ctx, deadLetterFilter(cmd), 0)
	if err != nil {
		return err
	}
	for _, d := range letters {
		if err := printReplicaDeadLetter(cmd, d); err != nil {
			return err
		}
	}
	return checkFound(cmd, len(letters))
}

// retryOfReplica needs the models: what is retried is applied here and now.
func (s Source) retryOfReplica(ctx context.Context, cmd *cli.Command) error {
	if _, err := s.replica(ctx, cmd, checkDeadLetters(cmd, true)...); err != nil {
		return err
	}
	if s.Replica == nil {
		return exit.Wrong(of("--side", errors.New("this program does not have the replica's "+
			"models, which apply them")))
	}
	rep, err := s.Replica(ctx)
	if err != nil {
		return err
	}
	f := deadLetterFilter(cmd)
	chosen := operate.DeadLetterFilter{IDs: f.IDs, Model: f.Model, Key: f.Key}
	if f.OlderThan > 0 {
		now, err := rep.Now(ctx)
		if err != nil {
			return err
		}
		chosen.Before = now.Add(-f.OlderThan)
	}
	var all retries
	err = operate.RetryDeadLetters(ctx, rep, chosen, func(d operate.RetriedDeadLetter) {
		retried := admin.RetriedDeadLetter{ID: d.ID, Model: d.Model, Key: d.Key, Err: d.Err}
		_ = printRetried(cmd, all.note(retried, d.Outcome)) // as with any other print
	})
	if err != nil {
		return err
	}
	return all.end(onReplica)
}

func (s Source) purgeOfReplica(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkDeadLetters(cmd, true)...)
	if err != nil {
		return err
	}
	n, err := r.PurgeDeadLetters(ctx, deadLetterFilter(cmd))
	return printPurged(cmd, n, err)
}

func (s Source) dumpOfReplica(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkDeadLetters(cmd, false)...)
	if err != nil {
		return err
	}
	const page = 100
	dump := deadLetterDump{cmd: cmd}
	for f := deadLetterFilter(cmd); ; {
		letters, err := r.DeadLetters(ctx, f, page)
		if err != nil {
			return err
		}
		for _, letter := range letters {
			if err := dump.write(letter); err != nil {
				return err
			}
		}
		if len(letters) < page {
			return dump.end()
		}
		f.After = letters[page-1].ID
	}
}
