package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
)

func (s Source) dump() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "write the instances of a model, for load", Category: categoryMaster,
		Flags: append(paceFlags(), modelFlag(), narrowFlag(), outputFlag(), resumeFlag(),
			&cli.BoolFlag{Name: "end-mark", Usage: "end with a mark by which load tells a whole " +
				"dump from one that broke off; not for Django"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			n, err := operate.Dump(ctx, j.box, j.model(), j.out,
				operate.DumpOptions{Options: j.options, Resume: j.at.resume(),
					EndMark: j.Bool("end-mark")})
			return j.finishRows(err, "%d instances of %s", n, j.model())
		}),
	}
}

func (s Source) sync() *cli.Command {
	return &cli.Command{
		Name: "sync", Usage: "send the present state of instances again", Category: categoryMaster,
		Flags: append(paceFlags(), modelFlag(), filterFlag(), resumeFlag(),
			&cli.StringFlag{Name: "queue", Usage: "the one replica that is sent them; all if not " +
				"given"},
			&cli.BoolFlag{Name: "unchecked-queue", Usage: "do not ask the broker whether it has " +
				"the queue"},
			&cli.BoolFlag{Name: "force", Usage: "replicas take them even where they have newer " +
				"revisions: the master was restored from a backup"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			if err := s.checkQueue(ctx, j); err != nil {
				return err
			}
			sent, err := operate.Sync(ctx, j.box, j.model(), operate.SyncOptions{
				Options: j.options, Resume: j.at.resume(),
				To: outbox.SyncOptions{Queue: j.String("queue"), Force: j.Bool("force")},
			})
			return j.finishRows(err, "%d instances of %s are in the outbox", sent, j.model())
		}),
	}
}

func (s Source) diffMaster() *cli.Command {
	return &cli.Command{
		Name: "diff-master", Category: categoryMaster,
		Usage: "write which revisions the master has, for diff-replica",
		Flags: append(paceFlags(), modelFlag(), filterFlag(), outputFlag(), contentFlag(),
			resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			n, err := operate.DiffMaster(ctx, j.box, j.model(), j.out,
				operate.DiffMasterOptions{Options: j.options, Resume: j.at.resume(),
					Content: j.Bool("content")})
			return j.finishRows(err, "%d instances of %s", n, j.model())
		}),
	}
}

func (s Source) diffSync() *cli.Command {
	return &cli.Command{
		Name: "diff-sync", Category: categoryMaster,
		Usage: "send again what diff-replica found, to that replica only",
		Flags: append(paceFlags(), inputFlag(), allowEmptyFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			sent, err := operate.DiffSync(ctx, j.box, j.in, j.options)
			if err := j.finishRows(cutShort(err, func() {
				j.say("%d instances are in the outbox",
					sent)
			}),
				"%d instances are in the outbox", sent); err != nil {
				return err
			}
			return differing(sent > 0)
		}),
	}
}

func (s Source) deletedDiffMaster() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-master", Usage: "write which keys of deleted-diff-replica the master " +
			"does not have",
		Category: categoryMaster,
		Flags: append(paceFlags(), inputFlag(), outputFlag(), allowEmptyFlag(), maxDeletesFlag(),
			resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			found, err := operate.DeletedDiffMaster(ctx, j.box, j.in, j.out, j.options)
			if err != nil {
				return err
			}
			j.say("%d of %d keys are not on the master", found.Differing, found.Compared)
			return differing(found.Differing > 0)
		}),
	}
}

// checkQueue fails where --queue names none that the broker has: a message to it would reach
// nobody, or wait for ever.
func (s Source) checkQueue(ctx context.Context, j *job) error {
	queue := j.String("queue")
	if queue == "" || s.HasQueue == nil || j.Bool("unchecked-queue") {
		return nil
	}
	has, err := s.HasQueue(ctx, queue)
	if err == nil && !has {
		err = errors.New("the broker has no such queue: start that replica once, or correct the " +
			"name")
	}
	if exit.IsUsage(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("--queue %q: %w", queue, err)
	}
	return nil
}

func (s Source) adopt() *cli.Command {
	return &cli.Command{
		Name: "adopt", Category: categoryMaster,
		Usage: "take over the revisions of a table that a Django master wrote",
		Flags: append(paceFlags(), modelFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			adopted, err := operate.Adopt(ctx, j.box, j.model(), j.options)
			if err == nil {
				j.say("%d rows of %s: %d revisions taken over, %d rows are sent again",
					adopted.Rows, j.model(), adopted.Taken, adopted.Sent)
			}
			return err
		}),
	}
}
