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
		Name: "load", Category: categoryReplica,
		Usage: "read what dump (or Django's cqrs_bulk_dump) wrote",
		Flags: append(paceFlags(), inputFlag(), maxDeletesFlag(), resumeFlag(),
			&cli.BoolFlag{Name: "clear", Usage: "empty the table first; asks, unless " +
				"--max-deletes allows it"}),
		Action: s.action(func(ctx context.Context, j *job) error {
			loaded, err := operate.Load(ctx, j.rep, j.in, operate.LoadOptions{
				Options: j.options, Clear: j.Bool("clear"),
				Ask:     func(e *operate.TooManyDeletesError) error { return j.ask(ctx, e) },
				BadLine: func(number int, err error) { j.bad(fmt.Sprintf("line %d", number), err) },
			})
			if err != nil && loaded.Lines == 0 {
				return err
			}
			j.say("%d lines of %s: %d applied, %d unchanged, %d bad",
				loaded.Lines, loaded.Model, loaded.Applied, loaded.Unchanged, loaded.Bad)
			if err != nil {
				return err
			}
			return j.badOnes("lines could not be loaded")
		}),
	}
}

// ask asks on the terminal whether the rows may go, where --max-deletes does not say.
func (j *job) ask(ctx context.Context, e *operate.TooManyDeletesError) error {
	if j.options.MaxDeletes > 0 {
		return e
	}
	return ask(ctx, j.Root().ErrWriter, e)
}

// terminal is where a question is answered: standard input may be the dump.
var terminal = func() (io.ReadCloser, error) { return os.Open("/dev/tty") }

// ask returns an error unless the answer is yes.
func ask(ctx context.Context, w io.Writer, e *operate.TooManyDeletesError) error {
	tty, err := terminal()
	if err != nil {
		return e // nobody is there
	}
	tty = until(ctx, tty)
	defer func() { _ = tty.Close() }() // it was only read
	fmt.Fprintf(w, "Empty the replica's table first? It has %d rows of %s; those that the dump "+
		"lacks are gone then. [y/N] ",
		e.Deletes, e.Model)
	answer, _ := bufio.NewReader(tty).ReadString('\n') // nothing is no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("not confirmed: nothing was done")
	}
	return nil
}

func (s Source) diffReplica() *cli.Command {
	return &cli.Command{
		Name: "diff-replica", Category: categoryReplica,
		Usage: "write which keys of diff-master differ here, for diff-sync",
		Flags: append(paceFlags(), inputFlag(), outputFlag(), graceFlag(), allowEmptyFlag(),
			resumeFlag()),
		Action: s.action(func(ctx context.Context, j *job) error {
			found, err := operate.DiffReplica(ctx, j.rep, j.in, j.out, j.options)
			said := func() {
				j.warnUnsent(found)
				j.say("%d of %d instances differ%s",
					found.Differing, found.Compared, notCompared(found))
				j.sayAhead(found)
			}
			if err := cutShort(err, said); err != nil {
				return err
			}
			said()
			return differing(!found.Equal())
		}),
	}
}

// sayAhead says what it means that a replica is newer than its master.
func (j *job) sayAhead(found operate.Difference) {
	if found.Ahead > 0 {
		j.say("%d of them are newer on the replica: the master went back to an earlier state (a "+
			"backup, or a failover that lost commits). diff and diff-sync take the replica back, "+
			"key by key; sync --force does it for all that it selects", found.Ahead)
	}
}

func (s Source) deletedDiffReplica() *cli.Command {
	return &cli.Command{
		Name: "deleted-diff-replica", Usage: "write which keys the replica has, for " +
			"deleted-diff-master",
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
		Name: "deleted-sync-replica", Category: categoryReplica,
		Usage: "delete what deleted-diff-master found",
		Flags: append(paceFlags(), inputFlag(), graceFlag(), allowEmptyFlag(), maxDeletesFlag(),
			resumeFlag()),
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

func (j *job) badKey(pk json.RawMessage, err error) { j.badRow(pk, err) }

// cutShort says what was done of an input that the stage before left incomplete, and hands its
// error on.
func cutShort(err error, say func()) error {
	if errors.As(err, new(*operate.CutShortError)) {
		say()
	}
	return err
}
