package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) key() *cli.Command {
	return &cli.Command{
		Name: "key", Usage: "say where a key is on its way: key order 17",
		ArgsUsage: "MODEL KEY",
		Flags: []cli.Flag{
			&cli.DurationFlag{
				Name: "wait", Value: 5 * time.Second,
				Usage: "how long to wait for what replicas answer; 0 asks none",
			},
			jsonFlag("one JSON object instead of text"),
		},
		Action: s.findKey,
	}
}

// keyObject is what key --json prints.
type keyObject struct {
	diagnosis.KeyState
	Key *admin.Key `json:"key"`
}

func (s Source) findKey(ctx context.Context, cmd *cli.Command) error {
	var problems []error
	model, key, err := diagnosis.ParseKey(strings.Join(cmd.Args().Slice(), " "))
	if err != nil {
		problems = append(problems, err)
	}
	wait := cmd.Duration("wait")
	if wait < 0 {
		problems = append(problems, of("--wait", fmt.Errorf("%s, want a positive time, or 0", wait)))
	}
	t, err := s.open(ctx, false, problems...)
	if err != nil {
		return err
	}
	m, err := t.Master(ctx)
	if err != nil {
		return err
	}
	found, err := m.Key(ctx, model, key, wait)
	if err != nil {
		return err
	}
	state := diagnosis.OfKey(found)
	if cmd.Bool("json") {
		err = printJSON(cmd, keyObject{state, found})
	} else {
		err = printKey(cmd, state)
	}
	if err == nil && !state.Fine {
		return exit.Partly(errors.New("the key is not the same everywhere"))
	}
	return err
}

func printKey(cmd *cli.Command, state diagnosis.KeyState) error {
	out := cmd.Root().Writer
	printWrapped(out, "", state.Sentence)
	if len(state.Timeline) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	table := newTable(cmd)
	for _, e := range state.Timeline {
		at, mark := "now", " "
		if !e.At.IsZero() {
			at = e.At.UTC().Format(time.RFC3339)
		}
		if e.Bad {
			mark = "!"
		}
		fmt.Fprintf(table, "%s %s\t%s\t%s\n", mark, at, oneLine(e.Where), oneLine(e.What))
	}
	return table.Flush()
}
