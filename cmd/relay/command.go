package main

import (
	"context"
	"errors"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/command"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return exit.Report(stderr, exit.Flags(root(stdout, stderr).Run(ctx, args)))
}

func root(stdout, stderr io.Writer) *cli.Command {
	o := &options{stderr: stderr, watch: watchEvery}
	root := &cli.Command{
		Name:    "relay",
		Usage:   "publish the messages of a cqrsync outbox",
		Version: version(), EnableShellCompletion: true,
		Flags: o.commonFlags(),
		Commands: []*cli.Command{{
			Name:   "run",
			Usage:  "publish until SIGINT or SIGTERM",
			Flags:  o.runFlags(),
			Action: o.run,
		}},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return unknown(cmd)
			}
			return exit.Wrong(errors.New("no command: see --help"))
		},
		Writer:    stdout,
		ErrWriter: stderr,
		// The default prints and exits by itself for some errors.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
	for _, c := range command.Commands(o.source()) {
		c.Flags = append(c.Flags, o.sourceFlags(c)...)
		root.Commands = append(root.Commands, c)
	}
	root.Commands = append(root.Commands, o.capture().Commands()...)
	root.Commands = append(root.Commands, o.manifest(), o.queuesCommand(), o.backup(), o.answer(),
		&cli.Command{
			Name:   "replicate",
			Usage:  "keep copies of a master's tables, until SIGINT or SIGTERM",
			Flags:  o.replicateFlags(),
			Action: o.replicate,
		})
	o.wire(root)
	describe(root)
	hideDefaults(root)
	return root
}

// wire has a command, and those below it, close what they opened, and makes a mistake in their
// flags a usage error.
func (o *options) wire(cmd *cli.Command) {
	cmd.OnUsageError = func(_ context.Context, cmd *cli.Command, err error, _ bool) error {
		return exit.Wrong(exit.Flags(misspelt(cmd, err)))
	}
	if run := cmd.Action; run != nil {
		cmd.Action = func(ctx context.Context, cmd *cli.Command) (err error) {
			defer func() { err = errors.Join(err, o.close()) }()
			return run(ctx, cmd)
		}
	}
	for _, below := range cmd.Commands {
		o.wire(below)
	}
}
