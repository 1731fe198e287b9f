package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"
)

// letterOptions are the flags that choose dead letters.
type letterOptions struct {
	ids        []int64
	model, key string
	olderThan  time.Duration
	before     time.Time // readAge makes it of olderThan
	all        bool
	limit      int
	after      int64

	queue, deadQueue string // those on the broker
}

var (
	idSetting        = setting{flag: "--id"}
	olderThanSetting = setting{flag: "--older-than"}
	limitSetting     = setting{flag: "--limit"}
)

func (o *options) deadLetters() *cli.Command {
	json := func(usage string) cli.Flag { return &cli.BoolFlag{Name: "json", Destination: &o.json, Usage: usage} }
	return &cli.Command{
		Name:  "dead-letters",
		Usage: "look at the messages that were given up, send them again, or forget them",
		Commands: []*cli.Command{
			{
				Name:  "list",
				Usage: "list them, oldest first",
				Flags: append(o.letterFlags(), json("a JSON line for each instead of a table"),
					&cli.IntFlag{Name: "limit", Destination: &o.letters.limit, Value: 100, Usage: "list so many at most; 0: all"},
					&cli.Int64Flag{Name: "after", Destination: &o.letters.after, Usage: "go on behind this id"}),
				Action: o.bySource(o.listLetters, o.listReplicaLetters, o.listBrokerLetters),
			},
			{
				Name:   "show",
				Usage:  "show one with everything in it",
				Flags:  append(o.letterSourceFlags(), o.configFlag(), o.idFlag(), json("one JSON object")),
				Action: o.bySource(o.showLetters, o.showReplicaLetters, o.showBrokerLetters),
			},
			{
				Name: "dump",
				Usage: "with --side replica: write their bodies, one a line, as django-cqrs's " +
					"cqrs_dead_letters dump does",
				Flags: o.letterFlags(),
				Description: "What is not JSON cannot be a line of it: it is left out and named on standard " +
					"error, and the exit code is 1. show has it.",
				Action: o.bySource(refuseDump, o.dumpReplicaLetters, o.dumpBrokerLetters),
			},
			{
				Name:  "retry",
				Usage: "send them again, unless a newer message of their key has been sent or is on its way",
				Flags: append(o.letterFlags(), o.allFlag("retry"), json("a JSON line for each")),
				Description: "What is superseded stays: sent now it would overtake, or bring back what was deleted. Purge it. " +
					"With --side replica they are applied here and now; with --queue, too, they are sent " +
					"to the replica's queue, as django-cqrs's cqrs_dead_letters retry does. " +
					"The exit code is 1 when something stayed.",
				Action: o.bySource(o.retryLetters, o.retryReplicaLetters, o.retryBrokerLetters),
			},
			{
				Name:   "purge",
				Usage:  "forget them for good",
				Flags:  append(o.letterFlags(), o.allFlag("purge"), json("one JSON object")),
				Action: o.bySource(o.purgeLetters, o.purgeReplicaLetters, o.purgeBrokerLetters),
			},
		},
		Action: func(context.Context, *cli.Command) error {
			return wrong(errors.New("use dead-letters list, show, dump, retry or purge"))
		},
	}
}

func (o *options) idFlag() cli.Flag {
	return &cli.Int64SliceFlag{Name: "id", Destination: &o.letters.ids, Usage: "the one with this id; may be repeated"}
}

func (o *options) allFlag(verb string) cli.Flag {
	return &cli.BoolFlag{Name: "all", Destination: &o.letters.all, Usage: verb + " all of them"}
}

func (o *options) letterFlags() []cli.Flag {
	return append(o.letterSourceFlags(),
		o.configFlag(),
		o.idFlag(),
		&cli.StringFlag{Name: "model", Destination: &o.letters.model, Usage: "those of this model"},
		&cli.StringFlag{Name: "key", Destination: &o.letters.key, Usage: "those of this key"},
		&cli.DurationFlag{Name: "older-than", Destination: &o.letters.olderThan, Usage: "those given up so long ago, as in 72h"},
	)
}

// letterSourceFlags say where the dead letters are.
func (o *options) letterSourceFlags() []cli.Flag {
	return append([]cli.Flag{o.letterSideFlag()}, o.letterQueueFlags()...)
}

// letterQueueFlags choose dead letters that are on the broker: those of a Django replica, and of a Go
// replica that publishes them. CQRSYNC_QUEUE does not: it says who a replica is.
func (o *options) letterQueueFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "queue", Destination: &o.letters.queue,
			Usage: "with --side replica: those on the broker, of the replica with this queue, " +
				"Go's or Django's; not those in its database",
		},
		&cli.StringFlag{
			Name: "dead-letter-queue", Destination: &o.letters.deadQueue,
			Usage: "with --queue: where they are, if not in dead_letter_QUEUE " +
				"(Django's CQRS['replica']['dead_letter_queue'])",
		},
		&cli.StringFlag{
			Name: "broker", Sources: cli.EnvVars("CQRSYNC_BROKER"), Destination: &o.broker,
			Usage: "with --queue: the broker, amqp://USER:PASSWORD@HOST:PORT/?exchange=cqrs",
		},
	}
}

// bySource is the action for the side that --side names, and the place that --queue does.
func (o *options) bySource(ofOutbox, ofReplica, ofBroker cli.ActionFunc) cli.ActionFunc {
	byDatabase := o.bySide(ofOutbox, ofReplica)
	return func(ctx context.Context, cmd *cli.Command) error {
		onBroker := cmd.IsSet("queue") || cmd.IsSet("dead-letter-queue")
		switch {
		case !onBroker:
			return byDatabase(ctx, cmd)
		case o.side != "replica":
			return wrong(queueSetting.wrong(fmt.Errorf("only with --side replica, not %q: "+
				"what an outbox gave up is in its database", o.side)))
		}
		return ofBroker(ctx, cmd)
	}
}

// checkChoice refuses a command that does not say of which letters, where it has to.
func (o *options) checkChoice(needed bool) error {
	l := o.letters
	chosen := len(l.ids) > 0 || l.model != "" || l.key != "" || l.olderThan != 0
	if needed && chosen == l.all {
		return errors.New("choose which: --id, --model, --key or --older-than, or else --all")
	}
	return nil
}

func (o *options) checkLimit() error {
	if o.letters.limit < 0 {
		return limitSetting.wrong(fmt.Errorf("%d, want 0 or more", o.letters.limit))
	}
	return nil
}

// checkIDs refuses to show letters that nobody named.
func (o *options) checkIDs() error {
	if len(o.letters.ids) > 0 {
		return nil
	}
	return wrong(idSetting.wrong(errors.New("not set, want the id of a dead letter, " +
		"as dead-letters list shows it")))
}

// checkFound says that ids were asked for which are no letter's.
func (o *options) checkFound(found int) error {
	if asked := len(o.letters.ids); found < asked {
		return &partlyError{fmt.Errorf("%d of %d ids are no dead letters", asked-found, asked)}
	}
	return nil
}
