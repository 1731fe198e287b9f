package transport

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ErrNoLetters: the broker has no queue of that name in which dead letters could be.
var ErrNoLetters = errors.New("the broker has no such queue")

// LetterReasonKey is the metadata key under which a dead letter says why it is one. django-cqrs has
// none.
const LetterReasonKey = "cqrsync_error"

// LetterBox is a subscriber whose broker keeps what its replica gave up in a queue beside its own,
// as django-cqrs does.
type LetterBox interface {
	// LetterQueue names the queue in which the dead letters are, where nobody chose another one.
	LetterQueue() string
	// EachLetter calls visit with each letter that is in a queue when it begins, oldest first,
	// until visit wants no more. What visit neither removes nor sends again is in the queue
	// afterwards, in the order it was. Nothing is lost if the process ends in the middle; a letter
	// may be there twice then, sent and unsent.
	EachLetter(ctx context.Context, queue string, visit func(Letter) (more bool, err error)) error
	// PurgeLetters removes all that is in a queue, and returns how much that was.
	PurgeLetters(ctx context.Context, queue string) (int, error)
}

// Letter is a dead letter, for as long as it is visited.
type Letter struct {
	Message *message.Message
	// Remove removes it for good.
	Remove func() error
	// SendAgain publishes a message to a topic, and removes the letter when a queue has that. After
	// ErrUnavailable nobody knows whether one has: the letter stays, and is perhaps sent twice.
	SendAgain func(topic string, m *message.Message) error
}
