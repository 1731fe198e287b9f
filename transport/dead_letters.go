package transport

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ErrNoDeadLetters says that the broker has no queue of that name in which dead letters could be.
var ErrNoDeadLetters = errors.New("the broker has no such queue")

// DeadLetterReasonKey is the metadata key under which a dead letter says why
// it is one. django-cqrs has none.
const DeadLetterReasonKey = "cqrsync_error"

// DeadLetterBox is a subscriber whose broker keeps what its replica gave up in a queue
// beside its own, as django-cqrs does.
type DeadLetterBox interface {
	// DeadLetterQueue names the queue in which the dead letters are, where nobody chose another one.
	DeadLetterQueue() string
	// EachDeadLetter calls visit with each dead letter that is in a queue when it begins, oldest
	// first, until visit wants no more. What visit neither removes nor sends again is in the queue
	// afterwards, in the order it was. Nothing is lost if the process ends in the middle; a dead
	// letter may be there twice then, sent and unsent.
	EachDeadLetter(
		ctx context.Context, queue string, visit func(DeadLetter) (more bool, err error),
	) error
	// PurgeDeadLetters removes all that is in a queue, and returns how much that was.
	PurgeDeadLetters(ctx context.Context, queue string) (int, error)
}

// DeadLetter is one that was given up, for as long as it is visited.
type DeadLetter struct {
	Message *message.Message
	// Remove removes it for good.
	Remove func() error
	// SendAgain publishes a message to a topic, and removes the dead letter when a queue
	// has that. After ErrUnavailable nobody knows whether one has: the dead letter
	// stays, and is perhaps sent twice.
	SendAgain func(topic string, m *message.Message) error
}
