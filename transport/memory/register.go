package memory

import (
	"context"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.Registrar = (*Subscriber)(nil)

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
func (s *Subscriber) Register(_ context.Context, database string) (before string, err error) {
	if s.queue == "" {
		return "", nil
	}
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	before = s.broker.databases[s.queue]
	s.broker.databases[s.queue] = database
	return before, nil
}
