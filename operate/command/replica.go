package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
)

func (s Source) load() *cli.Command {
	return &cli.Command{
		Name: "load", Usage: "read what dump (or Django's cqrs_bulk_dump) wrote", Category: "replica",
		Flags: append(paceFlags(), inputFlag(), resumeFlag(),
			&cli.BoolFlag{Name: "clear", Usage: "empty the table first; asks"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, optionsErr := options(cmd)
			at, resumeErr := resumed(cmd)
			if err := errors.Join(optionsErr, resumeErr); err != nil {
				return err
			}
			if cmd.Bool("clear") && !cmd.Bool("yes") && !at.begun() {
				if err := ask(cmd.Root().ErrWriter, "Empty the replica's table first?"); err != nil {
					return err
				}
			}
			rep, err := s.Replica(ctx)
			if err != nil {
				return err
			}
			r, err := input(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			loaded, err := operate.Load(ctx, rep, r, operate.LoadOptions{
				Options: o, Clear: cmd.Bool("clear"), SkipLines: at.Lines, Reached: at.reachedLine,
				BadLine: func(number int, err error) {
					fmt.Fprintf(cmd.Root().ErrWriter, "load: line %d: %v\n", number, err)
				},
			})
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "load: %d lines of %s: %d applied, %d unchanged, %d bad",
				loaded.Lines, loaded.Model, loaded.Applied, loaded.Unchanged, loaded.Bad)
			if loaded.Bad > 0 {
				return fmt.Errorf("%d of %d lines could not be loaded; the others were", loaded.Bad, loaded.Lines)
			}
			return at.finished()
		},
	}
}

// terminal is where a question is answered: standard input may be the dump.
var terminal = func() (io.ReadCloser, error) { return os.Open("/dev/tty") }

// ask returns an error unless the answer is yes.
func ask(w io.Writer, question string) error {
	tty, err := terminal()
	if err != nil {
		return fmt.Errorf("--clear asks on the terminal, and there is none: give --yes (%w)", err)
	}
	defer func() { _ = tty.Close() }() // it was only read
	fmt.Fprintf(w, "%s Rows that the dump lacks are gone then. [y/N] ", question)
	answer, _ := bufio.NewReader(tty).ReadString('\n') // nothing is no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("not confirmed: nothing was done")
	}
	return nil
}

// streams opens --input and --output.
func streams(cmd *cli.Command) (io.ReadCloser, io.WriteCloser, error) {
	r, err := input(cmd)
	if err != nil {
		return nil, nil, err
	}
	w, err := output(cmd, false)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, w, nil
}

func (s Source) diffReplica() *cli.Command {
	return &cli.Command{
		Name: "diff-replica", Usage: "write which keys of diff-master differ here, for diff-sync", Category: "replica",
		Flags: append(paceFlags(), inputFlag(), outputFlag(), graceFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			rep, err := s.Replica(ctx)
			if err != nil {
				return err
			}
			r, w, err := streams(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close(), w.Close()) }()
			found, err := operate.DiffReplica(ctx, rep, r, w, o)
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "diff-replica: %d of %d instances differ", found.Differing, found.Compared)
			return differing(found.Differing > 0)
		},
	}
}

func (s Source) deletedDiffReplica() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-replica", Usage: "write which keys the replica has, for deleted-diff-master", Category: "replica",
		Flags: append(paceFlags(), modelFlag(), outputFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			rep, err := s.Replica(ctx)
			if err != nil {
				return err
			}
			w, err := output(cmd, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			n, err := operate.DeletedDiffReplica(ctx, rep, cmd.String("model"), w, o)
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "deleted-diff-replica: %d keys of %s", n, cmd.String("model"))
			return nil
		},
	}
}

func (s Source) deletedSyncReplica() *cli.Command {
	return &cli.Command{
		Name: "deleted-sync-replica", Usage: "delete what deleted-diff-master found", Category: "replica",
		Flags: append(paceFlags(), inputFlag(), graceFlag()),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			rep, err := s.Replica(ctx)
			if err != nil {
				return err
			}
			r, err := input(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			d, err := operate.DeletedSyncReplica(ctx, rep, r, o, badKey(cmd))
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "deleted-sync-replica: %d deleted, %d changed since and were kept", d.Deleted, d.Kept)
			if d.Bad > 0 {
				return fmt.Errorf("%d keys could not be deleted", d.Bad)
			}
			return differing(d.Deleted > 0)
		},
	}
}

func badKey(cmd *cli.Command) func(pk json.RawMessage, err error) {
	return func(pk json.RawMessage, err error) {
		fmt.Fprintf(cmd.Root().ErrWriter, "%s: key %s: %v\n", cmd.Name, pk, err)
	}
}

func (s Source) diff() *cli.Command {
	return &cli.Command{
		Name: "diff", Category: "both",
		Usage: "find and repair what differs, where one place reaches both databases",
		Flags: append(paceFlags(), modelFlag(), filterFlag(), outputFlag(), graceFlag(), contentFlag(),
			&cli.BoolFlag{Name: "check", Usage: "report only, repair nothing"}),
		Action: func(ctx context.Context, cmd *cli.Command) (err error) {
			o, p, err := options(cmd)
			if err != nil {
				return err
			}
			box, boxErr := s.Box(ctx)
			rep, repErr := s.Replica(ctx)
			if err := errors.Join(boxErr, repErr); err != nil {
				return err
			}
			w, err := output(cmd, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			found, err := operate.Diff(ctx, box, rep, cmd.String("model"), w, operate.DiffOptions{
				Options: o, Content: cmd.Bool("content"), CheckOnly: cmd.Bool("check"), BadKey: badKey(cmd),
			})
			if err != nil {
				return err
			}
			p.end()
			say(cmd, "diff: %d of %d instances differ, %d are on the replica only", found.Differing, found.Compared, found.Extra)
			if !cmd.Bool("check") {
				say(cmd, "diff: %d are in the outbox, %d were deleted", found.Sent, found.Deleted)
			}
			if found.Bad > 0 {
				return fmt.Errorf("%d keys could not be deleted", found.Bad)
			}
			return differing(!found.Equal())
		},
	}
}
