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

// ErrAfterGone says that the letter with the id LetterFilter.After is not in the queue any more.
var ErrAfterGone = errors.New("no letter has this id any more")

// BrokerLetters are the dead letters of a replica, Go's or Django's, that are in a queue of the
// broker.
type BrokerLetters struct {
	box transport.LetterBox

	// Queue is the replica's, and DeadQueue the one in which its dead letters are.
	Queue, DeadQueue string
}

// NewBrokerLetters returns those of the replica with a queue. An empty deadQueue means the broker's
// default, dead_letter_QUEUE. Whoever opened the box closes it.
func NewBrokerLetters(box transport.LetterBox, queue, deadQueue string) *BrokerLetters {
	if deadQueue == "" {
		deadQueue = box.LetterQueue()
	}
	return &BrokerLetters{box, queue, deadQueue}
}

// Each calls visit for the letters that f chooses, until it wants no more. The error is
// transport.ErrNoLetters where the queue is not there, and ErrAfterGone. A broker dates no letters:
// f.OlderThan is refused.
func (b *BrokerLetters) Each(
	ctx context.Context, f LetterFilter, visit func(ReplicaLetter) (more bool, err error),
) error {
	return b.each(ctx, f, func(_ transport.Letter, l ReplicaLetter) (bool, error) {
		return visit(l)
	})
}

func (b *BrokerLetters) each(
	ctx context.Context, f LetterFilter,
	visit func(transport.Letter, ReplicaLetter) (more bool, err error),
) error {
	if f.OlderThan != 0 {
		return errors.New("a broker does not know since when its letters are dead: leave out " +
			"OlderThan")
	}
	behind := f.After == 0
	err := b.box.EachLetter(ctx, b.DeadQueue, func(letter transport.Letter) (bool, error) {
		l := brokerLetterOf(b.DeadQueue, letter.Message)
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

// brokerLetterOf is a letter with what can be read of it.
func brokerLetterOf(queue string, m *message.Message) ReplicaLetter {
	seen := envelope.Peek(m.Payload, m.Metadata)
	return ReplicaLetter{
		ID: letterID(m), Queue: queue,
		Model: seen.Model, Key: seen.Key, Revision: seen.Revision, Retries: seen.Retries,
		Error: m.Metadata[transport.LetterReasonKey], Body: m.Payload, Metadata: maps.Clone(m.Metadata),
	}
}

// letterID is made of what is in a letter, because a broker gives none: the place in the queue
// changes with every letter that goes before it. Letters that are the same have the same. It has 53
// bits, which is what all readers of JSON keep of a number.
func letterID(m *message.Message) int64 {
	sum := sha256.Sum256(append([]byte(m.UUID+"\x00"), m.Payload...))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 11) //nolint:gosec // 53 bits are left
}

// retryFor is how long a letter that may expire has from when it is sent again: django-cqrs's own
// default for a message.
const retryFor = 24 * time.Hour

// Retry sends letters to the replica's queue, as django-cqrs's cqrs_dead_letters does: with no
// retries so far, and time to be applied. It calls tell for each. Whether something newer has come
// since, the replica knows.
func (b *BrokerLetters) Retry(
	ctx context.Context, f LetterFilter, tell func(RetriedLetter) error,
) error {
	return b.each(ctx, f, func(letter transport.Letter, l ReplicaLetter) (bool, error) {
		retried := RetriedLetter{ID: l.ID, Model: l.Model, Key: l.Key, Err: b.sendAgain(letter)}
		if l.Revision != nil {
			retried.Revision = *l.Revision
		}
		if errors.Is(retried.Err, transport.ErrUnavailable) {
			return false, fmt.Errorf("letter %d stays, and may have been sent all the same: %w",
				l.ID, retried.Err)
		}
		return true, tell(retried)
	})
}

func (b *BrokerLetters) sendAgain(letter transport.Letter) error {
	body, model, err := envelope.Again(letter.Message.Payload, time.Now().Add(retryFor))
	if err != nil {
		return err
	}
	again := message.NewMessage(letter.Message.UUID, body)
	maps.Copy(again.Metadata, letter.Message.Metadata)
	delete(again.Metadata, transport.LetterReasonKey)
	return letter.SendAgain(transport.DirectTopic(b.Queue, model), again)
}

// Purge forgets letters for good and returns how many. The zero filter empties the queue.
func (b *BrokerLetters) Purge(ctx context.Context, f LetterFilter) (int64, error) {
	if f.all() {
		purged, err := b.box.PurgeLetters(ctx, b.DeadQueue)
		return int64(purged), err
	}
	var purged int64
	err := b.each(ctx, f, func(letter transport.Letter, _ ReplicaLetter) (bool, error) {
		err := letter.Remove()
		if err == nil {
			purged++
		}
		return true, err
	})
	return purged, err
}

// all says that the filter chooses every letter.
func (f LetterFilter) all() bool {
	return len(f.IDs) == 0 && f.Model == "" && f.Key == "" && f.OlderThan == 0 && f.After == 0
}
