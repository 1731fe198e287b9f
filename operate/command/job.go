package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// job is a command with what its flags name opened.
type job struct {
	*cli.Command

	mu       sync.Mutex // of what is reported
	options  operate.Options
	at       *position
	progress *progress
	box      *outbox.Box
	rep      *replica.Replica
	in       io.ReadCloser
	out      io.WriteCloser
	told     int // of what could not be dealt with
}

// action does something with a side; of both, those of --model; --all opens them itself. All that
// is wrong with the flags is said at once, before anything is opened; a --resume file goes when the
// command came to its end.
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
		j.options.LeftOut, j.options.BadRow = j.at.Bad > 0, j.badRow
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
	if j.Category == categoryBoth && j.model() != "" {
		j.box, j.rep, boxErr = s.pair(ctx, j.model())
	}
	if j.Category == categoryMaster {
		j.box, boxErr = s.Box(ctx)
	}
	if j.Category == categoryReplica {
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

// maxTold is how many parts of the input are named that could not be dealt with.
const maxTold = 1000

// bad reports a part of the input that could not be dealt with.
func (j *job) bad(what string, err error) {
	j.at.Bad++
	if j.told++; j.told > maxTold {
		if j.told == maxTold+1 {
			fmt.Fprintf(j.Root().ErrWriter, "%s: more of them are counted only\n", j.Name)
		}
		return
	}
	fmt.Fprintf(j.Root().ErrWriter, "%s: %s: %v\n", j.Name, what, err)
}

// badRow reports a row that cannot be sent. Stages of one process may report at the same time.
func (j *job) badRow(pk json.RawMessage, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.bad("key "+string(pk), err)
}

// finishRows ends a command that may have left rows out, after it has said what it did.
func (j *job) finishRows(err error, format string, args ...any) error {
	var left *operate.BadRowsError
	if err != nil && !errors.As(err, &left) {
		return err
	}
	j.say(format, args...)
	return j.badOnes("rows cannot be sent")
}

// badOnes is the error of a command that came to its end with bad input, counting what an
// interrupted run before saw.
func (j *job) badOnes(what string) error {
	if j.at.Bad == 0 {
		return nil
	}
	return fmt.Errorf("%d %s, the others were; %w", j.at.Bad, what, errBad)
}
