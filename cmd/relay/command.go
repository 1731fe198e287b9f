package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/command"
)

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := root(stdout, stderr).Run(ctx, args)
	var usage *usageError
	var partly *partlyError
	var operation *command.ExitError
	switch {
	case err == nil:
		return command.ExitDone
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "error: %v\n", err)
		return command.ExitUsage
	case errors.As(err, &operation):
		if text := operation.Error(); text != "" {
			fmt.Fprintf(stderr, "error: %s\n", text)
		}
		return operation.Code
	case errors.As(err, &partly):
		fmt.Fprintln(stderr, partly)
		return command.ExitDiffer
	default:
		fmt.Fprintf(stderr, "error: %v\n", err)
		return command.ExitFailed
	}
}

// usageError is a command line or an environment that cannot work, with everything that is wrong with it.
type usageError struct{ problems []error }

func (e *usageError) Error() string {
	var text strings.Builder
	text.WriteString("these settings cannot be meant so:")
	for _, problem := range e.problems {
		for line := range strings.Lines(problem.Error()) {
			text.WriteString("\n  " + strings.TrimSuffix(line, "\n"))
		}
	}
	return text.String()
}

// partlyError is what was asked for and not done, where nothing went wrong.
type partlyError struct{ error }

func root(stdout, stderr io.Writer) *cli.Command {
	o := &options{stdout: stdout, stderr: stderr}
	root := &cli.Command{
		Name:  "relay",
		Usage: "publish the messages of a cqrsync outbox",
		Flags: o.commonFlags(),
		Commands: []*cli.Command{
			{
				Name:   "run",
				Usage:  "publish until SIGINT or SIGTERM",
				Flags:  o.runFlags(),
				Action: o.run,
			},
			{
				Name:   "migrate",
				Usage:  "make or upgrade the tables, or print the SQL that does",
				Flags:  o.migrateFlags(),
				Action: o.migrate,
			},
			{
				Name:   "status",
				Usage:  "show what waits in the outbox, or on a replica",
				Flags:  o.statusFlags(),
				Action: o.bySide(o.status, o.replicaStatus),
			},
			o.deadLetters(),
			o.forgetDeleted(),
			o.lanes(),
			o.incarnation(),
			o.queues(),
			o.backup(),
			{
				Name:   "replicate",
				Usage:  "keep copies of a master's tables, until SIGINT or SIGTERM",
				Flags:  o.replicateFlags(),
				Action: o.replicate,
			},
		},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return wrong(errors.New("unknown command: see --help"))
			}
			return wrong(errors.New("no command: see --help"))
		},
		Writer:    stdout,
		ErrWriter: stderr,
		// The default prints and exits by itself for some errors.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
	root.Commands = append(root.Commands, o.operations()...)
	reportUsage(root)
	return root
}

// reportUsage makes a mistake in the flags of a command, or of one below it, a usage error.
func reportUsage(cmd *cli.Command) {
	cmd.OnUsageError = func(_ context.Context, _ *cli.Command, err error, _ bool) error { return wrong(err) }
	for _, below := range cmd.Commands {
		reportUsage(below)
	}
}
