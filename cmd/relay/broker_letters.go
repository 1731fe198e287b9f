package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

var (
	queueSetting       = setting{flag: "--queue"}
	letterQueueSetting = setting{flag: "--dead-letter-queue"}
	afterSetting       = setting{flag: "--after"}
)

// letterBox is a queue of dead letters on a broker.
type letterBox struct {
	transport.LetterBox

	queue, dead string
}

// openLetterBox checks the flags; close closes it. choice says that something must be chosen.
func (o *options) openLetterBox(cmd *cli.Command, choice bool) (*letterBox, error) {
	l := o.letters
	var nameErr, ageErr error
	switch {
	case l.queue == "":
		nameErr = queueSetting.wrong(errors.New("not set, want the name of the replica's queue"))
	case l.deadQueue == l.queue:
		nameErr = letterQueueSetting.wrong(fmt.Errorf("%q is the replica's own queue, "+
			"want that of its dead letters", l.queue))
	case cmd.IsSet("dead-letter-queue") && l.deadQueue == "":
		nameErr = letterQueueSetting.wrong(errors.New("it is empty; leave it out for dead_letter_" +
			l.queue))
	}
	if l.olderThan != 0 {
		ageErr = olderThanSetting.wrong(errors.New("a broker does not know since when its letters " +
			"are dead: use --id, --model or --key"))
	}
	box, brokerErr := o.dialLetterBox()
	err := wrong(noArguments(cmd), o.checkChoice(choice), o.checkLimit(), nameErr, ageErr,
		brokerSetting.wrong(brokerErr))
	if err != nil {
		return nil, err
	}
	b := &letterBox{box, l.queue, l.deadQueue}
	if b.dead == "" {
		b.dead = box.LetterQueue()
	}
	return b, nil
}

func (o *options) dialLetterBox() (transport.LetterBox, error) {
	if o.broker == "" {
		return nil, errors.New("not set, want amqp://USER:PASSWORD@HOST:PORT/")
	}
	queue := o.letters.queue
	if queue == "" {
		queue = "none" // which is said elsewhere
	}
	silent := open.Options{Logger: slog.New(slog.DiscardHandler)}
	subscriber, err := open.Subscriber(o.broker, queue, silent)
	if err != nil {
		return nil, err
	}
	o.closers = append(o.closers, subscriber)
	box, is := subscriber.(transport.LetterBox)
	if !is {
		return nil, errors.New("this kind of broker has no queue of dead letters beside a replica's, " +
			"want amqp://…; without --queue come those in the replica's database")
	}
	return box, nil
}

// visit calls fn for the letters that the flags choose, until it wants no more.
func (o *options) visit(
	ctx context.Context, box *letterBox,
	fn func(transport.Letter, replicaLetterObject) (more bool, err error),
) error {
	l := o.letters
	behind := l.after == 0
	err := box.EachLetter(ctx, box.dead, func(letter transport.Letter) (bool, error) {
		d := brokerLetterOf(box.dead, letter.Message)
		switch {
		case !behind:
			behind = d.ID == l.after
			return true, nil
		case len(l.ids) > 0 && !slices.Contains(l.ids, d.ID),
			l.model != "" && l.model != d.Model, l.key != "" && l.key != d.Key:
			return true, nil
		}
		return fn(letter, d)
	})
	if err == nil && !behind {
		return &partlyError{afterSetting.wrong(fmt.Errorf("no letter in %s has the id %d any more: "+
			"list from the beginning", box.dead, l.after))}
	}
	return noLetters(err)
}

// noLetters says what to do where the queue is not there.
func noLetters(err error) error {
	if errors.Is(err, transport.ErrNoLetters) {
		return fmt.Errorf("%w: correct --queue, or say with --dead-letter-queue where the letters are",
			err)
	}
	return err
}

// brokerLetterOf is a letter with what can be read of it.
func brokerLetterOf(queue string, m *message.Message) replicaLetterObject {
	seen := envelope.Peek(m.Payload, m.Metadata)
	d := replicaLetterObject{
		ID: letterID(m), Queue: queue,
		Model: seen.Model, Key: seen.Key, Revision: seen.Revision, Retries: seen.Retries,
		Error: m.Metadata[transport.LetterReasonKey], Metadata: maps.Clone(m.Metadata),
	}
	d.setBody(m.Payload)
	return d
}

// letterID is made of what is in a letter, because a broker gives none: the place in the queue
// changes with every letter that goes before it. Letters that are the same have the same. It has 53
// bits, which is what all readers of JSON keep of a number.
func letterID(m *message.Message) int64 {
	sum := sha256.Sum256(append([]byte(m.UUID+"\x00"), m.Payload...))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 11) //nolint:gosec // 53 bits are left
}

func (o *options) listBrokerLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	box, err := o.openLetterBox(cmd, false)
	if err != nil {
		return err
	}
	var letters []replicaLetterObject
	err = o.visit(ctx, box, func(_ transport.Letter, d replicaLetterObject) (bool, error) {
		letters = append(letters, d.withoutContent())
		return len(letters) != o.letters.limit, nil
	})
	if err != nil {
		return err
	}
	return o.printReplicaLetters(letters)
}

func (o *options) showBrokerLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	box, err := o.openLetterBox(cmd, false)
	if err := errors.Join(o.checkIDs(), err); err != nil {
		return err
	}
	shown := map[int64]bool{}
	err = o.visit(ctx, box, func(_ transport.Letter, d replicaLetterObject) (bool, error) {
		shown[d.ID] = true
		return true, o.printReplicaLetter(d)
	})
	if err != nil {
		return err
	}
	return o.checkFound(len(shown))
}

func (o *options) dumpBrokerLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	box, err := o.openLetterBox(cmd, false)
	if err != nil {
		return err
	}
	dump := letterDump{options: o}
	err = o.visit(ctx, box, func(letter transport.Letter, d replicaLetterObject) (bool, error) {
		return true, dump.write(d.ID, letter.Message.Payload)
	})
	return errors.Join(err, dump.end())
}

// retryFor is how long a letter that may expire has from when it is sent again: django-cqrs's own
// default for a message.
const retryFor = 24 * time.Hour

// retryBrokerLetters sends letters to the replica's queue, as django-cqrs's cqrs_dead_letters does:
// no retries so far, and time to be applied. Whether something newer has come since, the replica
// knows.
func (o *options) retryBrokerLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	box, err := o.openLetterBox(cmd, true)
	if err != nil {
		return err
	}
	sent, stayed := 0, 0
	err = o.visit(ctx, box, func(letter transport.Letter, d replicaLetterObject) (bool, error) {
		object := retriedObject{ID: d.ID, Model: d.Model, Key: d.Key}
		if d.Revision != nil {
			object.Revision = *d.Revision
		}
		err := sendAgain(box, letter)
		switch {
		case errors.Is(err, transport.ErrUnavailable):
			return false, fmt.Errorf("letter %d stays, and may have been sent all the same: %w",
				d.ID, err)
		case err != nil:
			object.Reason, stayed = err.Error(), stayed+1
		default:
			object.Retried, object.Reason, sent = true, "sent to "+box.queue, sent+1
		}
		return true, o.printRetried(object)
	})
	if err != nil {
		return err
	}
	return allRetried(sent, stayed)
}

func sendAgain(box *letterBox, letter transport.Letter) error {
	body, model, err := envelope.Again(letter.Message.Payload, time.Now().Add(retryFor))
	if err != nil {
		return err
	}
	again := message.NewMessage(letter.Message.UUID, body)
	maps.Copy(again.Metadata, letter.Message.Metadata)
	delete(again.Metadata, transport.LetterReasonKey)
	err = letter.SendAgain(transport.DirectTopic(box.queue, model), again)
	if errors.Is(err, transport.ErrUnroutable) {
		return fmt.Errorf("%w: start the replica %s once with the model %s, or correct --queue",
			err, box.queue, model)
	}
	return err
}

func (o *options) purgeBrokerLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	box, err := o.openLetterBox(cmd, true)
	if err != nil {
		return err
	}
	if o.letters.all {
		purged, err := box.PurgeLetters(ctx, box.dead)
		if err != nil {
			return noLetters(err)
		}
		return o.printPurged(int64(purged))
	}
	var purged int64
	err = o.visit(ctx, box, func(letter transport.Letter, _ replicaLetterObject) (bool, error) {
		err := letter.Remove()
		if err == nil {
			purged++
		}
		return true, err
	})
	if err != nil {
		return err
	}
	return o.printPurged(purged)
}
