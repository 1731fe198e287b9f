// Package commands makes command lines of package manifest: capture install, check and remove, for
// any urfave/cli application with a cqrsync.yaml.
//
// Results go to standard output, as the root command's Writer says.
package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// Source opens what the commands work on, when they run. An error about how the command was called
// is one of package exit.
type Source struct {
	// Capture opens the triggers of a manifest's models.
	Capture func(ctx context.Context) (*manifest.Capture, error)
	// Flags are added to each command: those by which Capture knows what to open.
	Flags []cli.Flag
}

// Commands returns the commands.
func (s Source) Commands() []*cli.Command {
	printFlag := &cli.BoolFlag{
		Name: "print", Usage: "print the SQL instead, for this database as it is now",
	}
	capture := &cli.Command{
		Name:  "capture",
		Usage: "have the database capture the tables of cqrsync.yaml by triggers, whoever writes them",
		Commands: []*cli.Command{
			s.command("install", "make the triggers, or bring them up to date while others write",
				install, printFlag),
			s.command("check", "list triggers that are missing, disabled or out of date; exit 1 if there "+
				"are any", check),
			s.command("remove", "take the triggers away; writes by others are not captured from then on",
				remove),
		},
	}
	for _, c := range capture.Commands {
		run := c.Action
		c.Action = func(ctx context.Context, cmd *cli.Command) error {
			return exit.With(run(ctx, cmd))
		}
		c.OnUsageError = func(_ context.Context, _ *cli.Command, err error, _ bool) error {
			return exit.With(exit.Wrong(exit.Flags(err)))
		}
	}
	return []*cli.Command{capture}
}

func (s Source) command(
	name, usage string, run func(ctx context.Context, cmd *cli.Command, c *manifest.Capture) error,
	flags ...cli.Flag,
) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Flags: append(append([]cli.Flag{}, s.Flags...), flags...),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				// The argument is not shown: it may be a URL.
				return exit.Wrong(errors.New("unexpected argument: everything is a flag, see --help"))
			}
			c, err := s.Capture(ctx)
			if err != nil {
				return err
			}
			return run(ctx, cmd, c)
		},
	}
}

func install(ctx context.Context, cmd *cli.Command, c *manifest.Capture) error {
	if !cmd.Bool("print") {
		return c.Install(ctx)
	}
	statements, err := c.SQL(ctx)
	if err == nil {
		_, err = fmt.Fprintln(cmd.Root().Writer, strings.Join(statements, ";\n\n")+";")
	}
	return err
}

func check(ctx context.Context, cmd *cli.Command, c *manifest.Capture) error {
	found, err := c.Check(ctx)
	if err != nil || len(found) == 0 {
		return err
	}
	for _, line := range found {
		fmt.Fprintln(cmd.Root().Writer, line)
	}
	return exit.Partly(errors.New("run " + strings.TrimSuffix(cmd.FullName(), "check") + "install"))
}

func remove(ctx context.Context, _ *cli.Command, c *manifest.Capture) error { return c.Remove(ctx) }
