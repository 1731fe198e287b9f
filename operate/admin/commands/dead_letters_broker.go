package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport"
)

// broker checks the flags and opens the dead letters of --queue. needed says that something must be
// chosen.
func (s Source) broker(
	cmd *cli.Command, needed bool, problems ...error,
) (*admin.BrokerDeadLetters, error) {
	queue, dead := cmd.String("queue"), cmd.String("dead-letter-queue")
	problems = append(problems, noArguments(cmd))
	problems = append(problems, checkDeadLetters(cmd, needed)...)
	switch {
	case queue == "":
		problems = append(problems, of("--queue", errors.New("not set, want the name of the "+
			"replica's queue")))
	case dead == queue:
		problems = append(problems, of("--dead-letter-queue", fmt.Errorf("%q is the replica's "+
			"own queue, want that of its dead letters", queue)))
	case cmd.IsSet("dead-letter-queue") && dead == "":
		problems = append(problems, of("--dead-letter-queue",
			errors.New("it is empty; leave it out for dead_letter_"+queue)))
	}
	if cmd.Duration("older-than") != 0 {
		problems = append(problems, of("--older-than", errors.New("a broker does not know how "+
			"old its dead letters are: use --id, --model or --key")))
	}
	if queue == "" {
		queue = "none" // which was said
	}
	box, err := s.DeadLetterBox(queue)
	if exit.IsUsage(err) {
		problems, err = append(problems, err), nil
	}
	if wrong := exit.Wrong(problems...); wrong != nil {
		return nil, wrong
	}
	if err != nil {
		return nil, err
	}
	return admin.NewBrokerDeadLetters(box, queue, dead), nil
}

// brokerEnd is an error with what helps.
func brokerEnd(b *admin.BrokerDeadLetters, f admin.DeadLetterFilter, err error) error {
	switch {
	case errors.Is(err, transport.ErrNoDeadLetters):
		return fmt.Errorf("%w: correct --queue, or say with --dead-letter-queue where the "+
			"dead letters are", err)
	case errors.Is(err, admin.ErrAfterGone):
		return exit.Partly(of("--after", fmt.Errorf("no dead letter in %s has the id %d any more: "+
			"list from the beginning", b.DeadQueue, f.After)))
	}
	return err
}

func (s Source) listOfBroker(ctx context.Context, cmd *cli.Command) error {
	b, err := s.broker(cmd, false)
	if err != nil {
		return err
	}
	var letters []admin.ReplicaDeadLetter
	f := deadLetterFilter(cmd)
	err = b.Each(ctx, f, func(d admin.ReplicaDeadLetter) (bool, error) {
		letters = append(letters, d.WithoutContent())
		return len(letters) != cmd.Int("limit"), nil
	})
	if err != nil {
		return brokerEnd(b, f, err)
	}
	return printReplicaDeadLetters(cmd, letters)
}

func (s Source) showOfBroker(ctx context.Context, cmd *cli.Command) error {
	b, err := s.broker(cmd, false, checkIDs(cmd))
	if err != nil {
		return err
	}
	shown := map[int64]bool{}
	f := deadLetterFilter(cmd)
	err = b.Each(ctx, f, func(d admin.ReplicaDeadLetter) (bool, error) {
		shown[d.ID] = true
		return true, printReplicaDeadLetter(cmd, d)
	})
	if err != nil {
		return brokerEnd(b, f, err)
	}
	return checkFound(cmd, len(shown))
}

func (s Source) dumpOfBroker(ctx context.Context, cmd *cli.Command) error {
	b, err := s.broker(cmd, false)
	if err != nil {
		return err
	}
	dump := deadLetterDump{cmd: cmd}
	f := deadLetterFilter(cmd)
	err = b.Each(ctx, f, func(d admin.ReplicaDeadLetter) (bool, error) { return true, dump.write(d) })
	return errors.Join(brokerEnd(b, f, err), dump.end())
}

func (s Source) retryOfBroker(ctx context.Context, cmd *cli.Command) error {
	b, err := s.broker(cmd, true)
	if err != nil {
		return err
	}
	var all retries
	f := deadLetterFilter(cmd)
	err = b.Retry(ctx, f, func(d admin.RetriedDeadLetter) error {
		if errors.Is(d.Err, transport.ErrUnroutable) {
			d.Err = fmt.Errorf("%w: start the replica %s once with the model %s, or correct "+
				"--queue",
				d.Err, b.Queue, d.Model)
		}
		return printRetried(cmd, all.note(d, "sent to "+b.Queue))
	})
	if err != nil {
		return brokerEnd(b, f, err)
	}
	return all.end(onReplica)
}

func (s Source) purgeOfBroker(ctx context.Context, cmd *cli.Command) error {
	b, err := s.broker(cmd, true)
	if err != nil {
		return err
	}
	f := deadLetterFilter(cmd)
	n, err := b.Purge(ctx, f)
	return printPurged(cmd, n, brokerEnd(b, f, err))
}
