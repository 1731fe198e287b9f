package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) deadLetters() *cli.Command {
	return &cli.Command{
		Name:  "dead-letters",
		Usage: "look at the messages that were given up, send them again, or forget them",
		Commands: []*cli.Command{
			{
				Name:  "list",
				Usage: "list them, oldest first",
				Flags: append(s.deadLetterFlags(), jsonFlag("a JSON line for each instead of a table"),
					&cli.IntFlag{Name: "limit", Value: 100, Usage: "list so many at most; 0: all"},
					&cli.Int64Flag{Name: "after", Usage: "go on behind this id"}),
				Action: bySource(s.listOfMaster, s.listOfReplica, s.listOfBroker),
			},
			{
				Name:   "show",
				Usage:  "show one with everything in it",
				Flags:  append(s.deadLetterSourceFlags(), idFlag(), jsonFlag("one JSON object")),
				Action: bySource(s.showOfMaster, s.showOfReplica, s.showOfBroker),
			},
			{
				Name: "dump",
				Usage: "with --side replica: write their bodies, one a line, as django-cqrs's " +
					"cqrs_dead_letters dump does",
				Flags: s.deadLetterFlags(),
				Description: "What is not JSON cannot be a line of it: it is left out and named " +
					"on standard error, and the exit code is 1. show has it.",
				Action: bySource(refuseDump, s.dumpOfReplica, s.dumpOfBroker),
			},
			{
				Name: "retry",
				Usage: "send them again, unless a newer message of their key has been sent or is " +
					"on its way",
				Flags: append(s.deadLetterFlags(), allFlag("retry"), jsonFlag("a JSON line for each")),
				Description: "What is superseded stays: sent now it would overtake, or bring " +
					"back what was deleted. Purge it. With --side replica they are applied here " +
					"and now; with --queue, too, they are sent to the replica's queue, as " +
					"django-cqrs's cqrs_dead_letters retry does. The exit code is 1 when " +
					"something stayed.",
				Action: bySource(s.retryOfMaster, s.retryOfReplica, s.retryOfBroker),
			},
			{
				Name:   "purge",
				Usage:  "forget them for good",
				Flags:  append(s.deadLetterFlags(), allFlag("purge"), jsonFlag("one JSON object")),
				Action: bySource(s.purgeOfMaster, s.purgeOfReplica, s.purgeOfBroker),
			},
		},
		Action: func(context.Context, *cli.Command) error {
			return exit.Wrong(errors.New("use dead-letters list, show, dump, retry or purge"))
		},
	}
}

func idFlag() cli.Flag {
	return &cli.Int64SliceFlag{Name: "id", Usage: "the one with this id; may be repeated"}
}

func allFlag(verb string) cli.Flag {
	return &cli.BoolFlag{Name: "all", Usage: verb + " all of them"}
}

func (s Source) deadLetterFlags() []cli.Flag {
	return append(s.deadLetterSourceFlags(),
		idFlag(),
		&cli.StringFlag{Name: "model", Usage: "those of this model"},
		&cli.StringFlag{Name: "key", Usage: "those of this key"},
		&cli.DurationFlag{Name: "older-than", Usage: "those given up so long ago, as in 72h"},
	)
}

// deadLetterSourceFlags say where the dead letters are. --queue has no variable:
// CQRSYNC_QUEUE says who a replica is.
func (s Source) deadLetterSourceFlags() []cli.Flag {
	flags := []cli.Flag{sideFlag("whose: outbox (messages that could not be published) or " +
		"replica (that could not be applied: in its database, or with --queue on the broker)")}
	if s.DeadLetterBox != nil {
		flags = append(flags,
			&cli.StringFlag{
				Name: "queue",
				Usage: "with --side replica: those on the broker, of the replica with this " +
					"queue, Go's or Django's; not those in its database",
			},
			&cli.StringFlag{
				Name: "dead-letter-queue",
				Usage: "with --queue: where they are, if not in dead_letter_QUEUE " +
					"(Django's CQRS['replica']['dead_letter_queue'])",
			})
	}
	return append(flags, s.DeadLetterFlags...)
}

// bySource is the action for the side that --side names, and the place that --queue does.
func bySource(ofMaster, ofReplica, ofBroker cli.ActionFunc) cli.ActionFunc {
	byDatabase := bySide(ofMaster, ofReplica)
	return func(ctx context.Context, cmd *cli.Command) error {
		onBroker := cmd.IsSet("queue") || cmd.IsSet("dead-letter-queue")
		switch side := admin.Side(cmd.String("side")); {
		case !onBroker:
			return byDatabase(ctx, cmd)
		case side != admin.ReplicaSide:
			return exit.Wrong(of("--queue", fmt.Errorf("only with --side replica, not %q: "+
				"what an outbox gave up is in its database", side)))
		}
		return ofBroker(ctx, cmd)
	}
}

// deadLetterFilter is what the flags choose.
func deadLetterFilter(cmd *cli.Command) admin.DeadLetterFilter {
	return admin.DeadLetterFilter{
		IDs: cmd.Int64Slice("id"), Model: cmd.String("model"), Key: cmd.String("key"),
		OlderThan: cmd.Duration("older-than"), After: cmd.Int64("after"),
	}
}

// checkDeadLetters checks the flags that choose. needed says that something must be chosen.
func checkDeadLetters(cmd *cli.Command, needed bool) (problems []error) {
	f, all, limit := deadLetterFilter(cmd), cmd.Bool("all"), cmd.Int("limit")
	chosen := len(f.IDs) > 0 || f.Model != "" || f.Key != "" || f.OlderThan != 0
	if needed && chosen == all {
		problems = append(problems, errors.New("choose which: --id, --model, --key or "+
			"--older-than, or else --all"))
	}
	if f.OlderThan < 0 {
		problems = append(problems, of("--older-than", fmt.Errorf("%s, want a positive time",
			duration(f.OlderThan))))
	}
	if limit < 0 {
		problems = append(problems, of("--limit", fmt.Errorf("%d, want 0 or more", limit)))
	}
	return problems
}

// checkIDs refuses to show dead letters that nobody named.
func checkIDs(cmd *cli.Command) error {
	if len(cmd.Int64Slice("id")) > 0 {
		return nil
	}
	return of("--id", errors.New("not set, want the id of a dead letter, as dead-letters list "+
		"shows it"))
}

// checkFound says that ids were asked for which are no dead letter's.
func checkFound(cmd *cli.Command, found int) error {
	if asked := len(cmd.Int64Slice("id")); found < asked {
		return exit.Partly(fmt.Errorf("%d of %d ids are no dead letters", asked-found, asked))
	}
	return nil
}

func refuseDump(context.Context, *cli.Command) error {
	return exit.Wrong(of("--side", errors.New("dump is for --side replica; of an outbox, show "+
		"--json has everything")))
}
