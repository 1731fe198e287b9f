// Package exit holds the exit codes of every command of cqrsync, and the errors that carry them.
//
// A command returns a plain error where it failed, [Wrong] where it was not called as it can be
// meant, and [Partly] where it was, and not all was done. [Report] says it at the end of a process.
package exit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The codes are for cron jobs and pipelines. docs/operations.md has the same table.
const (
	// Done says that all is done, or equal, or that there was nothing to do.
	Done = 0
	// Differ says that something differed, repaired or not, or that not all of what was asked for
	// was done, because it would have done harm or was not there.
	Differ = 1
	// Failed says that something failed. Standard error says what, and what to do.
	Failed = 2
	// Usage says that flags, variables or a file cannot be meant so, and nothing was begun. The
	// number is EX_USAGE of BSD's sysexits.h.
	Usage = 64
)

// Error ends a command with a code. It is a cli.ExitCoder: urfave/cli exits with it by itself,
// unless the application's ExitErrHandler says otherwise.
type Error struct {
	Code int
	// Err is nil where the code says it all.
	Err error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode returns Code.
func (e *Error) ExitCode() int { return e.Code }

// With gives an error the code that it has by its kind; nil stays nil.
func With(err error) error {
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return &Error{Code: Code(err), Err: err}
}

// Partly is the end of a command that did not do all, where nothing went wrong. Its text is printed
// as it is.
func Partly(err error) error { return &Error{Code: Differ, Err: err} }

// Code is the code that an error ends with.
func Code(err error) int {
	var coded *Error
	switch {
	case err == nil:
		return Done
	case errors.As(err, &coded):
		return coded.Code
	case IsUsage(err):
		return Usage
	}
	return Failed
}

// Report prints an error as the last words of a process, and returns its code.
func Report(w io.Writer, err error) int {
	code := Code(err)
	switch {
	case err == nil || err.Error() == "":
	case code == Differ:
		fmt.Fprintln(w, err)
	default:
		fmt.Fprintf(w, "error: %v\n", err)
	}
	return code
}

// usageError is a command line, an environment or a file that cannot be meant so, with everything
// that is wrong with it.
type usageError struct {
	problems []error
	listed   bool
}

func (e *usageError) Error() string {
	if !e.listed {
		return errors.Join(e.problems...).Error()
	}
	var text strings.Builder
	text.WriteString("these settings cannot be meant so:")
	for _, problem := range e.problems {
		for line := range strings.Lines(problem.Error()) {
			text.WriteString("\n  " + strings.TrimSuffix(line, "\n"))
		}
	}
	return text.String()
}

// Unwrap returns the problems.
func (e *usageError) Unwrap() []error { return e.problems }

// IsUsage says that an error is about how a command was called.
func IsUsage(err error) bool { return errors.As(err, new(*usageError)) }

// Wrong makes one usage error, with a line for each, of everything that is not nil; nil if all are.
// What was a usage error already is not wrapped twice.
func Wrong(problems ...error) error {
	if problems = flat(problems); len(problems) == 0 {
		return nil
	}
	return &usageError{problems, true}
}

// Mistake makes a usage error of an error, with its text; nil stays nil.
func Mistake(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{problems: []error{err}}
}

// flat takes usage errors apart, and leaves out what was said already.
func flat(errs []error) (problems []error) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		inner, several := err.(interface{ Unwrap() []error }) // this one, not one inside
		if several && IsUsage(err) {
			problems = flat(append(problems, inner.Unwrap()...))
			continue
		}
		if !slices.ContainsFunc(problems, func(p error) bool { return p.Error() == err.Error() }) {
			problems = append(problems, err)
		}
	}
	return problems
}
