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
		Name: "load", Usage: "read what dump (or Django's cqrs_bulk_dump) wrote", Category: categoryReplica,
		Flags: append(paceFlags(), inputFlag(), resumeFlag(),
			&cli.BoolFlag{Name: "clear", Usage: "empty the table first; asks"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			if j.Bool("clear") && !j.Bool("yes") && !j.at.begun() {
				if err := ask(ctx, j.Root().ErrWriter, "Empty the replica's table first?"); err != nil {
					return err
				}
			}
			loaded, err := operate.Load(ctx, j.rep, j.in, operate.LoadOptions{
				Options: j.options, Clear: j.Bool("clear"),
				BadLine: func(number int, err error) { j.bad(fmt.Sprintf("line %d", number), err) },
			})
			if err != nil {
				return err
			}
			j.say("%d lines of %s: %d applied, %d unchanged, %d bad",
				loaded.Lines, loaded.Model, loaded.Applied, loaded.Unchanged, loaded.Bad)
			return j.badOnes("lines could not be loaded")
		}),
	}
}

// terminal is where a question is answered: standard input may be the dump.
var terminal = func() (io.ReadCloser, error) { return os.Open("/dev/tty") }

// ask returns an error unless the answer is yes.
func ask(ctx context.Context, w io.Writer, question string) error {
	tty, err := terminal()
	if err != nil {
		return fmt.Errorf("--clear asks on the terminal, and there is none: give --yes (%w)", err)
	}
	tty = until(ctx, tty)
	defer func() { _ = tty.Close() }() // it was only read
	fmt.Fprintf(w, "%s Rows that the dump lacks are gone then. [y/N] ", question)
	answer, _ := bufio.NewReader(tty).ReadString('\n') // nothing is no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("not confirmed: nothing was done")
	}
	return nil
}

func (s Source) diffReplica() *cli.Command {
	return &cli.Command{
		Name: "diff-replica", Usage: "write which keys of diff-master differ here, for diff-sync", Category: categoryReplica,
		Flags: append(paceFlags(), inputFlag(), outputFlag(), graceFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			found, err := operate.DiffReplica(ctx, j.rep, j.in, j.out, j.options)
			if err != nil {
				return err
			}
			j.warnUnsent(found)
			j.say("%d of %d instances differ%s", found.Differing, found.Compared, notCompared(found))
			return differing(!found.Equal())
		}),
	}
}

func (s Source) deletedDiffReplica() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-replica", Usage: "write which keys the replica has, for deleted-diff-master",
		Category: categoryReplica,
		Flags:    append(paceFlags(), modelFlag(), narrowFlag(), outputFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			n, err := operate.DeletedDiffReplica(ctx, j.rep, j.model(), j.out, j.options)
			if err == nil {
				j.say("%d keys of %s", n, j.model())
			}
			return err
		}),
	}
}

func (s Source) deletedSyncReplica() *cli.Command {
	return &cli.Command{
		Name: "deleted-sync-replica", Usage: "delete what deleted-diff-master found", Category: categoryReplica,
		Flags: append(paceFlags(), inputFlag(), graceFlag(), resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			d, err := operate.DeletedSyncReplica(ctx, j.rep, j.in, j.options, j.badKey)
			if err != nil {
				return err
			}
			j.say("%d deleted, %d changed since and were kept", d.Deleted, d.Kept)
			if err := j.badOnes("keys could not be deleted"); err != nil {
				return err
			}
			return differing(d.Deleted > 0)
		}),
	}
}

func (j *job) badKey(pk json.RawMessage, err error) { j.bad("key "+string(pk), err) }

func (s Source) diff() *cli.Command {
	return &cli.Command{
		Name: "diff", Category: categoryBoth,
		Usage: "find and repair what differs, where one place reaches both databases",
		Flags: append(paceFlags(), modelFlag(), filterFlag(), outputFlag(), graceFlag(), contentFlag(),
			&cli.BoolFlag{Name: "check", Usage: "report only, repair nothing"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			found, err := operate.Diff(ctx, j.box, j.rep, j.model(), j.out, operate.DiffOptions{
				Options: j.options, Content: j.Bool("content"), CheckOnly: j.Bool("check"), BadKey: j.badKey,
			})
			if err != nil {
				return err
			}
			j.warnUnsent(found.Difference)
			j.say("%d of %d instances differ, %d are on the replica only%s",
				found.Differing, found.Compared, found.Extra, notCompared(found.Difference))
			if !j.Bool("check") {
				j.say("%d are in the outbox, %d were deleted", found.Sent, found.Deleted)
			}
			if err := j.badOnes("keys could not be deleted"); err != nil {
				return err
			}
			return differing(!found.Equal())
		}),
	}
}
