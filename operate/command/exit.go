package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/exit"
)

// differing is the end of a command that found something.
func differing(found bool) error {
	if !found {
		return nil
	}
	return &exit.Error{Code: exit.Differ}
}

// isDifference says that an error is none: something differed.
func isDifference(err error) bool {
	var coded *exit.Error
	return errors.As(err, &coded) && coded.Code == exit.Differ
}

// exiting gives every error its code.
func exiting(name string, action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		err := exit.Mistake(errors.New("unexpected argument: everything is a flag, see --help"))
		if !cmd.Args().Present() {
			err = action(ctx, cmd)
		}
		switch {
		case err == nil || errors.As(err, new(*exit.Error)):
			return err
		case ctx.Err() != nil:
			err = errors.New("interrupted")
			if cmd.String("resume") != "" {
				err = fmt.Errorf("interrupted; the same command with --resume %s goes on",
					cmd.String("resume"))
			}
		}
		return exit.With(fmt.Errorf("%s: %w", name, err))
	}
}
