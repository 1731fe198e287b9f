package sqlite

import (
	"context"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.QueueFinder = (*Subscriber)(nil)

// HasQueue implements transport.QueueFinder: a queue is what is bound to a topic.
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	if err = s.file.prepare(ctx); err == nil {
		err = s.file.reader.QueryRowContext(ctx,
			"SELECT EXISTS (SELECT 1 FROM bindings WHERE queue = ?)", s.config.Queue).Scan(&has)
	}
	return has, s.file.unavailable(err)
}
