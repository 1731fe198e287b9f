package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) waiting() *cli.Command {
	return &cli.Command{
		Name:  "waiting",
		Usage: "list the messages that wait at a replica, try them now, or drop them",
		Description: "A replica tries again by itself what it could not apply yet: what a missing " +
			"parent, or a database in trouble, holds up. What can never be applied is a dead letter.",
		Commands: []*cli.Command{
			{
				Name:  "list",
				Usage: "list them, those first that have waited longest",
				Flags: append(waitingFlags(), jsonFlag("a JSON line for each instead of a table"),
					&cli.IntFlag{Name: "limit", Value: 100, Usage: "list so many at most; 0: all"}),
				Action: s.listWaiting,
			},
			{
				Name:  "retry",
				Usage: "have the running replica try them now",
				Flags: append(waitingFlags(), allFlag("retry"), jsonFlag("one JSON object")),
				Description: "They become due: a replica that runs tries them within about a " +
					"second. One that awaits an earlier message of its key goes on awaiting it.",
				Action: s.retryWaiting,
			},
			{
				Name:  "drop",
				Usage: "forget them for good",
				Flags: append(waitingFlags(), allFlag("drop"), jsonFlag("one JSON object")),
				Description: "The replica then lacks what they say until a newer message of their " +
					"key comes, or the master sends the key again: relay sync, or a verification.",
				Action: s.dropWaiting,
			},
		},
		Action: func(context.Context, *cli.Command) error {
			return exit.Wrong(errors.New("use waiting list, retry or drop"))
		},
	}
}

func waitingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Usage: "those of this model"},
		&cli.StringFlag{Name: "key", Usage: "those of this key"},
		&cli.DurationFlag{Name: "older-than", Usage: "those that have waited so long, as in 10m"},
	}
}

func waitingFilter(cmd *cli.Command) admin.WaitingFilter {
	return admin.WaitingFilter{
		Model: cmd.String("model"), Key: cmd.String("key"), OlderThan: cmd.Duration("older-than"),
	}
}

// checkWaiting checks the flags that choose. needed says that something must be chosen.
func checkWaiting(cmd *cli.Command, needed bool) (problems []error) {
	f := waitingFilter(cmd)
	chosen := f.Model != "" || f.Key != "" || f.OlderThan != 0
	if needed && chosen == cmd.Bool("all") {
		problems = append(problems, errors.New("choose which: --model, --key or --older-than, or "+
			"else --all"))
	}
	if f.OlderThan < 0 {
		problems = append(problems, of("--older-than", fmt.Errorf("%s, want a positive time",
			duration(f.OlderThan))))
	}
	if limit := cmd.Int("limit"); limit < 0 {
		problems = append(problems, of("--limit", fmt.Errorf("%d, want 0 or more", limit)))
	}
	return problems
}

func (s Source) listWaiting(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkWaiting(cmd, false)...)
	if err != nil {
		return err
	}
	all, err := r.Waiting(ctx, waitingFilter(cmd), cmd.Int("limit"))
	if err != nil {
		return err
	}
	if cmd.Bool("json") {
		for _, w := range all {
			if err := printJSON(cmd, w); err != nil {
				return err
			}
		}
		return nil
	}
	return printWaiting(cmd, all)
}

func printWaiting(cmd *cli.Command, all []admin.WaitingMessage) error {
	if len(all) == 0 {
		fmt.Fprintln(stdout(cmd), "nothing waits")
		return nil
	}
	table := newTable(cmd)
	fmt.Fprintln(table, "MODEL\tKEY\tREVISION\tSINCE\tTRIES\tNEXT\tERROR")
	for _, w := range all {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%s\t%s\n", oneLine(w.Model), oneLine(w.Key),
			w.Revision, w.Since.Format(time.RFC3339), w.Attempts, w.Next.Format(time.RFC3339),
			oneLine(whyItWaits(w)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if limit := cmd.Int("limit"); len(all) == limit {
		fmt.Fprintf(stdout(cmd), "there may be more: --limit %d\n", 10*limit)
	}
	return nil
}

// whyItWaits is a message's last error, or what it awaits where nothing was tried.
func whyItWaits(w admin.WaitingMessage) string {
	if w.Error == "" && w.Awaits != nil {
		return fmt.Sprintf("revision %d has not come", *w.Awaits)
	}
	return w.Error
}

func (s Source) retryWaiting(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkWaiting(cmd, true)...)
	if err != nil {
		return err
	}
	n, err := r.RetryWaiting(ctx, waitingFilter(cmd))
	return printChanged(cmd, n, "due", "%d due now: the running replica tries them\n", err)
}

func (s Source) dropWaiting(ctx context.Context, cmd *cli.Command) error {
	r, err := s.replica(ctx, cmd, checkWaiting(cmd, true)...)
	if err != nil {
		return err
	}
	n, err := r.DropWaiting(ctx, waitingFilter(cmd))
	return printChanged(cmd, n, "dropped", "%d dropped\n", err)
}

// printChanged prints how many were changed: under a name in JSON, or in words.
func printChanged(cmd *cli.Command, n int64, name, words string, err error) error {
	switch {
	case err != nil:
		return err
	case cmd.Bool("json"):
		return printJSON(cmd, map[string]int64{name: n})
	}
	fmt.Fprintf(stdout(cmd), words, n)
	return nil
}
