package command

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
)

func (s Source) dump() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "write the instances of a model, for load (or Django's cqrs_bulk_load)", Category: categoryMaster,
		Flags: append(paceFlags(), modelFlag(), narrowFlag(), outputFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			n, err := operate.Dump(ctx, j.box, j.model(), j.out,
				operate.DumpOptions{Options: j.options, Resume: j.at.resume()})
			if err == nil {
				j.say("%d instances of %s", n, j.model())
			}
			return err
		}),
	}
}

func (s Source) sync() *cli.Command {
	return &cli.Command{
		Name: "sync", Usage: "send the present state of instances again", Category: categoryMaster,
		Flags: append(paceFlags(), modelFlag(), filterFlag(), resumeFlag(),
			&cli.StringFlag{Name: "queue", Usage: "the one replica that is sent them; all if not given"},
			&cli.BoolFlag{Name: "force", Usage: "replicas take them even where they have newer revisions: " +
				"the master was restored from a backup"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			sent, err := operate.Sync(ctx, j.box, j.model(), operate.SyncOptions{
				Options: j.options, Resume: j.at.resume(),
				To: outbox.SyncOptions{Queue: j.String("queue"), Force: j.Bool("force")},
			})
			if err == nil {
				j.say("%d instances of %s are in the outbox", sent, j.model())
			}
			return err
		}),
	}
}

func (s Source) diffMaster() *cli.Command {
	return &cli.Command{
		Name: "diff-master", Usage: "write which revisions the master has, for diff-replica", Category: categoryMaster,
		Flags: append(paceFlags(), modelFlag(), filterFlag(), outputFlag(), contentFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			n, err := operate.DiffMaster(ctx, j.box, j.model(), j.out,
				operate.DiffMasterOptions{Options: j.options, Resume: j.at.resume(), Content: j.Bool("content")})
			if err == nil {
				j.say("%d instances of %s", n, j.model())
			}
			return err
		}),
	}
}

func (s Source) diffSync() *cli.Command {
	return &cli.Command{
		Name: "diff-sync", Usage: "send again what diff-replica found, to that replica only", Category: categoryMaster,
		Flags: append(paceFlags(), inputFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			sent, err := operate.DiffSync(ctx, j.box, j.in, j.options)
			if err != nil {
				return err
			}
			j.say("%d instances are in the outbox", sent)
			return differing(sent > 0)
		}),
	}
}

func (s Source) deletedDiffMaster() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-master", Usage: "write which keys of deleted-diff-replica the master does not have",
		Category: categoryMaster,
		Flags:    append(paceFlags(), inputFlag(), outputFlag(), resumeFlag()),
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
