package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"
)

// The exit codes of every command, here and in cmd/relay. docs/operations.md has the same table.
const (
	// ExitDone says that all is done, or equal, or that there was nothing to do.
	ExitDone = 0
	// ExitDiffer says that something differed, repaired or not, or that not all of what was asked for
	// was done, because it would have done harm or was not there.
	ExitDiffer = 1
	// ExitFailed says that something failed. Standard error says what, and what to do.
	ExitFailed = 2
	// ExitUsage says that flags, variables or a file cannot be meant so, and nothing was begun. The
	// number is EX_USAGE of BSD's sysexits.h.
	ExitUsage = 64
)

// ExitError ends a command with a code. It is a cli.ExitCoder: urfave/cli exits with it by itself, unless the
// application's ExitErrHandler says otherwise.
type ExitError struct {
	Code int
	// Err is nil where the code says it all.
	Err error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode returns Code.
func (e *ExitError) ExitCode() int { return e.Code }

// usageError is what cannot be meant so.
type usageError struct{ error }

// Unwrap returns what it is about.
func (e *usageError) Unwrap() error { return e.error }

// usage makes a mistake of the caller's of an error; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// differing is the end of a command that found something.
func differing(found bool) error {
	if !found {
		return nil
	}
	return &ExitError{Code: ExitDiffer}
}

// isDifference says that an error is none: something differed.
func isDifference(err error) bool {
	var exit *ExitError
	return errors.As(err, &exit) && exit.Code == ExitDiffer
}

// exiting gives every error its code.
func exiting(name string, action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		var exit *ExitError
		err := usage(errors.New("unexpected argument: everything is a flag, see --help"))
		if !cmd.Args().Present() {
			err = action(ctx, cmd)
		}
		switch {
		case err == nil || errors.As(err, &exit):
			return err
		case ctx.Err() != nil:
			err = errors.New("interrupted")
			if cmd.String("resume") != "" {
				err = fmt.Errorf("interrupted; the same command with --resume %s goes on", cmd.String("resume"))
			}
		}
		code := ExitFailed
		if errors.As(err, new(*usageError)) {
			code = ExitUsage
		}
		return &ExitError{Code: code, Err: fmt.Errorf("%s: %w", name, err)}
	}
}
