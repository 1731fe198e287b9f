package sqlite

import (
	"context"
	"errors"
	"io/fs"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.QueueFinder = (*Subscriber)(nil)

// HasQueue implements transport.QueueFinder: a queue is what is bound to a topic.
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	h, err := s.file.open(ctx, existing)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = h.reader.QueryRowContext(ctx,
			"SELECT EXISTS (SELECT 1 FROM bindings WHERE queue = ?)", s.config.Queue).Scan(&has)
	}
	return has, s.file.unavailable(err)
}
