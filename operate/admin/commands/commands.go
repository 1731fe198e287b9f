// Package commands makes command lines of package admin: migrate, status, lanes, dead-letters,
// waiting, forget-deleted, incarnation and what comes from the replicas. operate/command mounts
// them in any urfave/cli application.
//
// Results go to standard output, everything else to standard error, as the root command's Writer
// and ErrWriter say. What --json prints keeps its names: some are added, none is changed.
package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

// Source opens what the commands work on, when they run. What it opens, it closes. An error about
// how the command was called is one of package exit.
type Source struct {
	// Open opens the tables. create says that a database which is a file may be made.
	Open func(ctx context.Context, create bool) (*admin.Tables, error)
	// Layout, if set, says for migrate --print, which needs no database, which dialect (empty if it
	// cannot be known) and where the tables are. nil leaves out --print.
	Layout func() (dialect string, where admin.Config, err error)
	// Replica, if set, opens the replica with its models, which apply dead letters again. nil
	// leaves that to nobody.
	Replica func(ctx context.Context) (*replica.Replica, error)
	// DeadLetterBox, if set, opens the dead letters that a broker keeps for the replica with a queue.
	// nil leaves out --queue.
	DeadLetterBox func(queue string) (transport.DeadLetterBox, error)
	// DeadLetterFlags are added to dead-letters: those by which Replica and DeadLetterBox know what to
	// open.
	DeadLetterFlags []cli.Flag
}

// Commands returns the commands.
func (s Source) Commands() []*cli.Command {
	all := []*cli.Command{
		s.migrate(), s.status(), s.deadLetters(), s.forgetDeleted(), s.lanes(), s.incarnation(),
		s.replicas(), s.verify(), s.key(), s.waiting(),
	}
	for _, c := range all {
		withCodes(c)
	}
	return all
}

// withCodes gives the errors of a command, and of those below it, their exit codes.
func withCodes(c *cli.Command) {
	run := c.Action
	c.Action = func(ctx context.Context, cmd *cli.Command) error { return exit.With(run(ctx, cmd)) }
	c.OnUsageError = func(_ context.Context, _ *cli.Command, err error, _ bool) error {
		return exit.With(exit.Wrong(exit.Flags(err)))
	}
	for _, below := range c.Commands {
		withCodes(below)
	}
}

// open opens the tables. All that is wrong with the flags is said at once, together with what Open
// finds wrong.
func (s Source) open(ctx context.Context, create bool, problems ...error) (*admin.Tables, error) {
	t, err := s.Open(ctx, create)
	if exit.IsUsage(err) {
		problems, err = append(problems, err), nil
	}
	if wrong := exit.Wrong(problems...); wrong != nil {
		return nil, wrong
	}
	return t, err
}

// master opens the outbox.
func (s Source) master(
	ctx context.Context, cmd *cli.Command, problems ...error,
) (*admin.Master, error) {
	t, err := s.open(ctx, false, append([]error{noArguments(cmd)}, problems...)...)
	if err != nil {
		return nil, err
	}
	return t.Master(ctx)
}

// replica opens what the replica keeps.
func (s Source) replica(
	ctx context.Context, cmd *cli.Command, problems ...error,
) (*admin.Replica, error) {
	t, err := s.open(ctx, false, append([]error{noArguments(cmd)}, problems...)...)
	if err != nil {
		return nil, err
	}
	return t.Replica(ctx)
}

func noArguments(cmd *cli.Command) error {
	switch {
	case !cmd.Args().Present():
		return nil
	case len(cmd.VisibleCommands()) > 0 && cmd.VisibleCommands()[0].Name != "help":
		// Every command has that one.
		return fmt.Errorf("unknown command: want %s alone, or %[1]s %s",
			cmd.Name, cmd.Commands[0].Name)
	default:
		// The argument is not shown: it may be a URL.
		return errors.New("unexpected argument: everything is a flag, see --help")
	}
}

// of says which flag a problem is with; nil stays nil.
func of(flag string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// bySide is the action for the side that --side names.
func bySide(ofOutbox, ofReplica cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		switch side := admin.Side(cmd.String("side")); side {
		case admin.OutboxSide:
			return ofOutbox(ctx, cmd)
		case admin.ReplicaSide:
			return ofReplica(ctx, cmd)
		default:
			return exit.Wrong(of("--side", fmt.Errorf("%q, want outbox or replica", side)))
		}
	}
}

func sideFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "side", Value: string(admin.OutboxSide), Usage: usage}
}

func jsonFlag(usage string) cli.Flag { return &cli.BoolFlag{Name: "json", Usage: usage} }
