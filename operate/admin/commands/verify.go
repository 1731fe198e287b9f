package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) verify() *cli.Command {
	return &cli.Command{
		Name: "verify",
		Usage: "have a replica compared with its master now, through the broker, and wait for the " +
			"result: exits 0 where all is equal, 1 where something differed",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "queue", Required: true,
				Usage: "the replica, as relay replicas list shows it"},
			&cli.StringSliceFlag{Name: "model", Usage: "CQRS `ID` of what is compared; several are"},
			&cli.BoolFlag{Name: "all", Usage: "compare all models that the replica verifies"},
			&cli.DurationFlag{Name: "timeout", Value: time.Hour,
				Usage: "give up waiting after so long; the comparison goes on"},
			jsonFlag("a JSON line for each model"),
		},
		Action: s.runVerify,
	}
}

func (s Source) runVerify(ctx context.Context, cmd *cli.Command) error {
	var flagErr error
	models := cmd.StringSlice("model")
	if cmd.Bool("all") == (len(models) > 0) {
		flagErr = errors.New("give either --model or --all")
	}
	m, err := s.master(ctx, cmd, flagErr)
	if err != nil {
		return err
	}
	waiting, stop := context.WithTimeout(ctx, cmd.Duration("timeout"))
	defer stop()
	results, err := m.Verify(waiting, cmd.String("queue"), models)
	differ := false
	for _, r := range results {
		differ = differ || r.Outcome != admin.VerifiedEqual
		if printErr := printVerification(cmd, r); printErr != nil {
			return printErr
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("the verification has not ended in %s: it goes on; see relay replicas "+
			"list",
			cmd.Duration("timeout"))
	case err != nil:
		return err
	case slices.ContainsFunc(results, func(r admin.Verification) bool {
		return r.Outcome == admin.VerifiedUnproven
	}):
		return errors.New("answers of the replica were missing, so nobody knows whether it is " +
			"equal: see its log")
	case differ:
		return exit.Partly(nil)
	}
	return nil
}

func printVerification(cmd *cli.Command, r admin.Verification) error {
	if cmd.Bool("json") {
		return printJSON(cmd, r)
	}
	end := ""
	if len(r.Found) > 0 {
		end = ": " + foundText(r.Found)
	}
	if r.Outcome == admin.VerifiedEqual {
		end = " through " + r.Started.Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(cmd.Root().Writer, "%s %s: %s%s (%d keys in %s)\n", oneLine(r.Queue),
		r.Model, r.Outcome, end,
		r.Keys, r.Ended.Sub(r.Started).Round(time.Millisecond))
	return err
}

// foundText says how many keys differed how.
func foundText(found map[string]int64) string {
	var kinds []string
	for _, how := range slices.Sorted(maps.Keys(found)) {
		kind := oneLine(strings.ReplaceAll(how, "_", " "))
		kinds = append(kinds, fmt.Sprintf("%d %s", found[how], kind))
	}
	return strings.Join(kinds, ", ")
}
