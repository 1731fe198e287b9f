package transport

import (
	"context"
	"errors"
)

// ErrNoQueue says that the broker has no queue of that name.
var ErrNoQueue = errors.New("the broker has no such queue")

// QueueFinder is a subscriber that can tell whether its queue is there, without making it.
type QueueFinder interface {
	HasQueue(ctx context.Context) (bool, error)
}

// QueueKeeper is a subscriber that looks after its queue without consuming it: a master makes sure
// that the queues of its replicas are there before it publishes. It is an ability of those that
// were opened for a named queue; others return an error.
//
// Calls return when ctx ends, and may be concurrent. ErrUnavailable says that trying again helps.
type QueueKeeper interface {
	QueueFinder
	// KeepQueue makes the queue where it is not there, and binds it to topics, at least one, and to
	// the direct topic of each, as a subscription to them would. What is there already stays as it
	// is: messages, consumers, further topics. Where somebody else has to make the queue, KeepQueue
	// only looks, and an error that is ErrNoQueue says what to make.
	KeepQueue(ctx context.Context, topics []string) error
	// BindQueue binds a queue that is there, as KeepQueue does, and never makes one: the error is
	// ErrNoQueue where there is none. A queue that vanishes at any time is found so, where KeepQueue
	// behind HasQueue could make it again unnoticed.
	BindQueue(ctx context.Context, topics []string) error
	// Waiting returns about how many messages are in the queue that no consumer has in its hands.
	// The error is ErrNoQueue where there is no queue.
	Waiting(ctx context.Context) (int64, error)
}
