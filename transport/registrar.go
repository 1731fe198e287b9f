package transport

import "context"

// Registrar is a subscriber that notes with its queue which database its messages end in. Two
// databases behind one queue each get a part of the messages, and neither is ever right.
type Registrar interface {
	// Register notes the id of a database and returns the one that was noted before: empty if there
	// was none, or the queue keeps no note. Whoever calls it from time to time finds out who else
	// does. It does not wait for the broker longer than until ctx ends, and may be called while
	// messages are consumed.
	Register(ctx context.Context, database string) (before string, err error)
}
