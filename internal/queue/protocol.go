package queue

import (
	"context"
	"errors"
	"fmt"
)

// protocol is how relays, and those who write beside them, use lanes and leases. It grows when a
// relay of a version before cannot work beside one of this version while the lanes change. 0 is
// what relays wrote that did not know of it.
const protocol = 1

// ErrOtherProtocol says that a relay of another version is at work.
var ErrOtherProtocol = errors.New("a relay of another version is at work")

// requireProtocol returns ErrOtherProtocol unless all live relays speak this one.
func (q *Queue) requireProtocol(ctx context.Context) error {
	var other []struct {
		ID       string
		Protocol int
	}
	err := q.DB().NewRaw("SELECT id, protocol FROM ? WHERE expires_at >= "+q.dialect.Now()+
		" AND protocol <> ? ORDER BY id LIMIT 1",
		q.Table("outbox_relays"), protocol).Scan(ctx, &other)
	if err != nil {
		return fmt.Errorf("ask for the versions of the relays: %w", err)
	}
	if len(other) > 0 {
		return fmt.Errorf("%w: relay %q speaks protocol %d, and this version %d: run the same "+
			"version everywhere, and then again",
			ErrOtherProtocol, other[0].ID, other[0].Protocol, protocol)
	}
	return nil
}
