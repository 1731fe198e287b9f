package command

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
)

func (s Source) dump() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "write the instances of a model, for load (or Django's cqrs_bulk_load)", Category: "master",
		Flags: append(paceFlags(), modelFlag(), &cli.StringFlag{
			Name: "filter", Aliases: []string{"f"}, Value: "{}", Usage: "which instances, as JSON; all if not given",
		}, outputFlag(), resumeFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, optionsErr := options(cmd)
			at, resumeErr := resumed(cmd)
			if err := errors.Join(optionsErr, resumeErr); err != nil {
				return err
			}
			box, err := s.Box(ctx)
			if err != nil {
				return err
			}
			w, err := output(cmd, at.begun())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			n, err := operate.Dump(ctx, box, cmd.String("model"), w,
				operate.DumpOptions{Options: o, After: at.After, Reached: at.reached})
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "dump: %d instances of %s", n, cmd.String("model"))
			return at.finished()
		},
	}
}

func (s Source) sync() *cli.Command {
	return &cli.Command{
		Name: "sync", Usage: "send the present state of instances again", Category: "master",
		Flags: append(paceFlags(), modelFlag(), filterFlag(), resumeFlag(),
			&cli.StringFlag{Name: "queue", Usage: "the one replica that is sent them; all if not given"},
			&cli.BoolFlag{Name: "force", Usage: "replicas take them even where they have newer revisions: " +
				"the master was restored from a backup"}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			o, p, optionsErr := options(cmd)
			at, resumeErr := resumed(cmd)
			if err := errors.Join(optionsErr, resumeErr); err != nil {
				return err
			}
			box, err := s.Box(ctx)
			if err != nil {
				return err
			}
			sent, err := operate.Sync(ctx, box, cmd.String("model"), operate.SyncOptions{
				Options: o, After: at.After, Reached: at.reached,
				To: outbox.SyncOptions{Queue: cmd.String("queue"), Force: cmd.Bool("force")},
			})
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "sync: %d instances of %s are in the outbox", sent, cmd.String("model"))
			return at.finished()
		},
	}
}

func (s Source) diffMaster() *cli.Command {
	return &cli.Command{
		Name: "diff-master", Usage: "write which revisions the master has, for diff-replica", Category: "master",
		Flags: append(paceFlags(), modelFlag(), filterFlag(), outputFlag(), contentFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			box, err := s.Box(ctx)
			if err != nil {
				return err
			}
			w, err := output(cmd, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			n, err := operate.DiffMaster(ctx, box, cmd.String("model"), w,
				operate.DiffMasterOptions{Options: o, Content: cmd.Bool("content")})
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "diff-master: %d instances of %s", n, cmd.String("model"))
			return nil
		},
	}
}

func (s Source) diffSync() *cli.Command {
	return &cli.Command{
		Name: "diff-sync", Usage: "send again what diff-replica found, to that replica only", Category: "master",
		Flags: append(paceFlags(), inputFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			box, err := s.Box(ctx)
			if err != nil {
				return err
			}
			r, err := input(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			sent, err := operate.DiffSync(ctx, box, r, o)
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "diff-sync: %d instances are in the outbox", sent)
			return differing(sent > 0)
		},
	}
}

func (s Source) deletedDiffMaster() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-master", Usage: "write which keys of deleted-diff-replica the master does not have", Category: "master",
		Flags: append(paceFlags(), inputFlag(), outputFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			box, err := s.Box(ctx)
			if err != nil {
				return err
			}
			r, w, err := streams(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close(), w.Close()) }()
			found, err := operate.DeletedDiffMaster(ctx, box, r, w, o)
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "deleted-diff-master: %d of %d keys are not on the master", found.Differing, found.Compared)
			return differing(found.Differing > 0)
		},
	}
}
