package admin

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/transport"
)

// ErrAfterGone says that the dead letter with the id DeadLetterFilter.After
// is not in the queue any more.
var ErrAfterGone = errors.New("no dead letter has this id any more")

// BrokerDeadLetters are the dead letters of a replica, Go's or Django's, that are in a queue of the
// broker.
type BrokerDeadLetters struct {
	box transport.DeadLetterBox

	// Queue is the replica's, and DeadQueue the one in which its dead letters are.
	Queue, DeadQueue string
}

// NewBrokerDeadLetters returns those of the replica with a queue. An empty deadQueue means the
// broker's default, dead_letter_QUEUE. Whoever opened the box closes it.
func NewBrokerDeadLetters(box transport.DeadLetterBox, queue, deadQueue string) *BrokerDeadLetters {
	if deadQueue == "" {
		deadQueue = box.DeadLetterQueue()
	}
	return &BrokerDeadLetters{box, queue, deadQueue}
}

// Each calls visit for the dead letters that f chooses, until it wants no more. The error is
// transport.ErrNoDeadLetters where the queue is not there, and ErrAfterGone. A broker dates no
// dead letters: f.OlderThan is refused.
func (b *BrokerDeadLetters) Each(
	ctx context.Context, f DeadLetterFilter, visit func(ReplicaDeadLetter) (more bool, err error),
) error {
	return b.each(ctx, f, func(_ transport.DeadLetter, l ReplicaDeadLetter) (bool, error) {
		return visit(l)
	})
}

func (b *BrokerDeadLetters) each(
	ctx context.Context, f DeadLetterFilter,
	visit func(transport.DeadLetter, ReplicaDeadLetter) (more bool, err error),
) error {
	if f.OlderThan != 0 {
		return errors.New("a broker does not know how old its dead letters are: " +
			"leave out OlderThan")
	}
	behind := f.After == 0
	err := b.box.EachDeadLetter(ctx, b.DeadQueue, func(letter transport.DeadLetter) (bool, error) {
		l := brokerDeadLetterOf(b.DeadQueue, letter.Message)
		switch {
		case !behind:
			behind = l.ID == f.After
			return true, nil
		case len(f.IDs) > 0 && !slices.Contains(f.IDs, l.ID),
			f.Model != "" && f.Model != l.Model, f.Key != "" && f.Key != l.Key:
			return true, nil
		}
		return visit(letter, l)
	})
	if err == nil && !behind {
		return ErrAfterGone
	}
	return err
}

// brokerDeadLetterOf is a dead letter with what can be read of it.
func brokerDeadLetterOf(queue string, m *message.Message) ReplicaDeadLetter {
	seen := envelope.Peek(m.Payload, m.Metadata)
	return ReplicaDeadLetter{
		ID: deadLetterID(m), Queue: queue,
		Model: seen.Model, Key: seen.Key, Revision: seen.Revision, Retries: seen.Retries,
		Error: m.Metadata[transport.DeadLetterReasonKey], Body: m.Payload,
		Metadata: maps.Clone(m.Metadata),
	}
}

// deadLetterID is made of what is in a dead letter, because a broker gives none: the place in the
// queue changes with every dead letter that goes before it. Dead letters that are the same have the
// same. It has 53 bits, which is what all readers of JSON keep of a number.
func deadLetterID(m *message.Message) int64 {
	sum := sha256.Sum256(append([]byte(m.UUID+"\x00"), m.Payload...))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 11) //nolint:gosec // 53 bits are left
}

// retryFor is how long a dead letter that may expire has from when it is sent again:
// django-cqrs's own default for a message.
const retryFor = 24 * time.Hour

// Retry sends dead letters to the replica's queue, as django-cqrs's cqrs_dead_letters does: with no
// retries so far, and time to be applied. It calls tell for each. Whether something newer has come
// since, the replica knows.
func (b *BrokerDeadLetters) Retry(
	ctx context.Context, f DeadLetterFilter, tell func(RetriedDeadLetter) error,
) error {
	return b.each(ctx, f, func(letter transport.DeadLetter, l ReplicaDeadLetter) (bool, error) {
		retried := RetriedDeadLetter{ID: l.ID, Model: l.Model, Key: l.Key, Err: b.sendAgain(letter)}
		if l.Revision != nil {
			retried.Revision = *l.Revision
		}
		if errors.Is(retried.Err, transport.ErrUnavailable) {
			return false, fmt.Errorf("dead letter %d stays, and may have been sent all the same: %w",
				l.ID, retried.Err)
		}
		return true, tell(retried)
	})
}

func (b *BrokerDeadLetters) sendAgain(letter transport.DeadLetter) error {
	body, model, err := envelope.Again(letter.Message.Payload, time.Now().Add(retryFor))
	if err != nil {
		return err
	}
	again := message.NewMessage(letter.Message.UUID, body)
	maps.Copy(again.Metadata, letter.Message.Metadata)
	delete(again.Metadata, transport.DeadLetterReasonKey)
	return letter.SendAgain(transport.DirectTopic(b.Queue, model), again)
}

// Purge forgets dead letters for good and returns how many. The zero filter empties the queue.
func (b *BrokerDeadLetters) Purge(ctx context.Context, f DeadLetterFilter) (int64, error) {
	if f.all() {
		purged, err := b.box.PurgeDeadLetters(ctx, b.DeadQueue)
		return int64(purged), err
	}
	var purged int64
	err := b.each(ctx, f, func(letter transport.DeadLetter, _ ReplicaDeadLetter) (bool, error) {
		err := letter.Remove()
		if err == nil {
			purged++
		}
		return true, err
	})
	return purged, err
}

// all says that the filter chooses every dead letter.
func (f DeadLetterFilter) all() bool {
	return len(f.IDs) == 0 && f.Model == "" && f.Key == "" && f.OlderThan == 0 && f.After == 0
}
