package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// job is a command with what its flags name opened.
type job struct {
	*cli.Command
	options  operate.Options
	at       *position
	progress *progress
	box      *outbox.Box
	rep      *replica.Replica
	in       io.ReadCloser
	out      io.WriteCloser
}

// action does something with a side, or with both where that is the command's category. All that is wrong with the flags
// is said at once, before anything is opened; a --resume file goes when the command came to its end.
func (s Source) action(do func(ctx context.Context, j *job) error) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) (err error) {
		j := &job{Command: cmd}
		var optionsErr, resumeErr error
		j.options, j.progress, optionsErr = options(cmd)
		j.at, resumeErr = resumed(cmd)
		if err := errors.Join(optionsErr, resumeErr); err != nil {
			return err
		}
		j.options.SkipLines, j.options.ReachedLine = j.at.Lines, j.at.reachedLine
		defer func() { err = errors.Join(err, j.close()) }()
		if err := s.open(ctx, j); err != nil {
			return err
		}
		err = do(ctx, j)
		if atEnd(err) {
			err = errors.Join(err, j.at.finished())
		}
		return err
	}
}

// open opens the sides first: a file that is to be written is not emptied for nothing.
func (s Source) open(ctx context.Context, j *job) error {
	var boxErr, repErr error
	if j.Category != categoryReplica {
		j.box, boxErr = s.Box(ctx)
	}
	if j.Category != categoryMaster {
		j.rep, repErr = s.Replica(ctx)
	}
	if err := errors.Join(boxErr, repErr); err != nil {
		return err
	}
	var err error
	if j.String("input") != "" {
		if j.in, err = input(ctx, j.Command); err != nil {
			return err
		}
	}
	if j.String("output") != "" {
		j.out, err = output(j.Command, j.at.begun())
	}
	return err
}

func (j *job) close() (err error) {
	if j.in != nil {
		err = j.in.Close()
	}
	if j.out != nil {
		err = errors.Join(err, j.out.Close())
	}
	return err
}

func (j *job) model() string { return j.String("model") }

// say ends the progress and prints what a person wants to know at the end.
func (j *job) say(format string, args ...any) {
	j.progress.end()
	if !j.Bool("quiet") {
		fmt.Fprintf(j.Root().ErrWriter, j.Name+": "+format+"\n", args...)
	}
}

// bad reports a part of the input that could not be dealt with.
func (j *job) bad(what string, err error) {
	j.at.Bad++
	fmt.Fprintf(j.Root().ErrWriter, "%s: %s: %v\n", j.Name, what, err)
}

// badOnes is the error of a command that came to its end with bad input, counting what an interrupted run before saw.
func (j *job) badOnes(what string) error {
	if j.at.Bad == 0 {
		return nil
	}
	return fmt.Errorf("%d %s, the others were; %w", j.at.Bad, what, errBad)
}
