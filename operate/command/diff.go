package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

func (s Source) diff() *cli.Command {
	return &cli.Command{
		Name: "diff", Category: categoryBoth,
		Usage: "find and repair what differs, where one place reaches both databases",
		Flags: append(paceFlags(), filterFlag(), outputFlag(), graceFlag(), contentFlag(),
			maxDeletesFlag(),
			&cli.StringFlag{Name: "model", Aliases: []string{"cqrs-id"},
				Usage: "the CQRS id of the model"},
			&cli.BoolFlag{Name: "all", Usage: "all models that the replica has, one after the " +
				"other"},
			&cli.BoolFlag{Name: "digest", Usage: "compare digests of ranges of keys, and list " +
				"the keys of those alone that differ: revisions only, and all of a model"},
			&cli.BoolFlag{Name: "check", Usage: "report only, repair nothing"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			switch {
			case j.Bool("all") && j.model() != "":
				return exit.Mistake(errors.New("--all, --model: give one of them"))
			case j.Bool("all"):
				return s.diffAll(ctx, j)
			case j.model() == "":
				return exit.Mistake(errors.New("--model: not set, want the CQRS id of a model, " +
					"or --all"))
			}
			differs, err := j.diff(ctx, j.model(), "")
			if err != nil {
				return err
			}
			if err := j.badOnes("keys or rows could not be dealt with"); err != nil {
				return err
			}
			return differing(differs)
		}),
	}
}

// digestMistakes are flags that --digest does not go with.
func digestMistakes(cmd *cli.Command, filter operate.Filter) (errs []error) {
	if !cmd.Bool("digest") {
		return nil
	}
	if cmd.Bool("content") {
		errs = append(errs, errors.New("--digest, --content: digests are of revisions, give one of "+
			"them"))
	}
	if !filter.IsZero() {
		errs = append(errs, errors.New("--digest, --filter: digests are of all keys of a model, "+
			"want --filter '{}' with it"))
	}
	return errs
}

// diffAll compares one model after the other. What is wrong with one does not keep the others from
// being compared.
func (s Source) diffAll(ctx context.Context, j *job) error {
	models, err := s.models(ctx)
	if err != nil {
		return err
	}
	differ := false
	var failed []error
	for _, model := range models {
		var differs bool
		if j.box, j.rep, err = s.pair(ctx, model); err == nil {
			differs, err = j.diff(ctx, model, model+": ")
		}
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			// Not wrapped: that one model is not as it should be is no mistake in the flags
			// (exit.Usage).
			failed = append(failed, fmt.Errorf("%s: %v", model, err)) //nolint:errorlint // see above
		}
		differ = differ || differs
	}
	if len(failed) > 0 {
		failed = append([]error{fmt.Errorf("%d of %d models could not be compared to their end",
			len(failed), len(models))}, failed...)
	}
	if err := errors.Join(errors.Join(failed...), j.badOnes("keys or rows could not be dealt "+
		"with")); err != nil {
		return err
	}
	return differing(differ)
}

// models are those of diff --all.
func (s Source) models(ctx context.Context) ([]string, error) {
	if s.Models != nil {
		return s.Models(ctx)
	}
	rep, err := s.Replica(ctx)
	if err != nil {
		return nil, err
	}
	return rep.Models()
}

// pair opens both sides.
func (s Source) pair(ctx context.Context, model string) (*outbox.Box, *replica.Replica, error) {
	if s.Pair != nil {
		return s.Pair(ctx, model)
	}
	box, boxErr := s.Box(ctx)
	rep, repErr := s.Replica(ctx)
	return box, rep, errors.Join(boxErr, repErr)
}

// diff compares a model, and says what it found and did behind prefix.
func (j *job) diff(ctx context.Context, model, prefix string) (differs bool, err error) {
	found, err := operate.Diff(ctx, j.box, j.rep, model, j.out, operate.DiffOptions{
		Options: j.options, Content: j.Bool("content"), Digest: j.Bool("digest"),
		CheckOnly: j.Bool("check"), BadKey: j.badKey,
	})
	if err != nil && !errors.As(err, new(*operate.TooManyDeletesError)) {
		return false, err
	}
	j.warnUnsent(found.Difference)
	j.say("%s%d of %d instances differ, %d are on the replica only%s",
		prefix, found.Differing, found.Compared, found.Extra, notCompared(found.Difference))
	j.sayAhead(found.Difference)
	if !j.Bool("check") {
		j.say("%s%d are in the outbox, %d were deleted", prefix, found.Sent, found.Deleted)
	}
	return !found.Equal(), err
}
