package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// fate is what becomes of one message that a relay publishes.
type fate struct {
	arrives bool  // the broker has it
	answer  error // what the relay is told
}

var (
	confirmed  = fate{arrives: true}
	unanswered = fate{arrives: true, answer: transport.ErrUnavailable}
	cutOff     = fate{answer: transport.ErrUnavailable}
	rejected   = fate{answer: transport.ErrRejected}
)

// witness is the broker that all relays of a test publish to. It notes what arrives, whatever the
// relays are told, and what of that breaks a promise: a revision that arrives for the first time
// after a newer one of its key (P4), one that leaves while an older one stays in the outbox that
// would be such a one after a crash, and one that says it follows what never came (P8).
type witness struct {
	*env

	mu      sync.Mutex
	newest  map[string]int64 // of each key
	arrived map[string]bool  // "key/revision"
	order   []string         // of first arrivals
	faults  []string
	broken  error // the database did not answer the witness
}

func newWitness(e *env) *witness {
	return &witness{env: e, newest: map[string]int64{}, arrived: map[string]bool{}}
}

// connection is one relay's way to the witness.
type connection struct {
	*witness
	plan func(m *envelope.Message) fate
	dead bool // under the witness's lock
}

func (c *connection) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	unsent, err := c.Unsent(context.WithoutCancel(ctx), 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = errors.Join(c.broken, err)
	errs := make([]error, len(batch))
	for i, out := range batch {
		switch {
		case transport.Ended(ctx) != nil:
			errs[i] = transport.Ended(ctx)
			continue
		case c.dead:
			errs[i] = transport.ErrUnavailable
			continue
		}
		m, err := envelope.Decode(out.Message.Payload, out.Message.Metadata)
		if err != nil {
			c.broken = errors.Join(c.broken, err)
			continue
		}
		f := c.plan(m)
		if errs[i] = f.answer; f.arrives && !c.dead {
			c.arrive(m, unsent)
		}
	}
	return errs
}

func (c *connection) Publish(topic string, messages ...*message.Message) error {
	return c.PublishBatch(messages[0].Context(), []transport.Outgoing{{Topic: topic, Message: messages[0]}})[0]
}

func (*connection) Close() error { return nil }

func nameOf(key string, revision int64) string { return fmt.Sprintf("%s/%d", key, revision) }

func (w *witness) arrive(m *envelope.Message, unsent []queue.Message) {
	name := nameOf(m.Key, m.Revision)
	newest, known := w.newest[m.Key]
	if !known {
		newest = -1
	}
	fault := func(format string, args ...any) { w.faults = append(w.faults, name+" "+fmt.Sprintf(format, args...)) }
	switch {
	case m.After == nil:
		fault("does not say what it follows")
	case m.Revision > newest && *m.After > newest:
		fault("says that it follows %d, and %d was the last that came", *m.After, newest)
	}
	if !w.arrived[name] && m.Revision < newest {
		fault("comes for the first time after %d", newest)
	}
	for _, older := range unsent {
		if older.Key == m.Key && older.Revision < m.Revision && !w.arrived[nameOf(older.Key, older.Revision)] {
			fault("leaves while %d, which never left, stays in the outbox", older.Revision)
		}
	}
	if !w.arrived[name] {
		w.arrived[name] = true
		w.order = append(w.order, name)
	}
	w.newest[m.Key] = max(newest, m.Revision)
}

// kill ends a relay as kill -9 does: nothing leaves it any more, nothing is removed, and its lanes
// go to others.
func (w *witness) kill(t *testing.T, c *connection, rel *relay.Relay, stop func() error) {
	t.Helper()
	w.mu.Lock()
	c.dead = true
	w.mu.Unlock()
	for _, statement := range []string{
		"UPDATE outbox_lanes SET owner = NULL, expires_at = NULL, epoch = epoch + 1 WHERE owner = ?",
		"DELETE FROM outbox_relays WHERE id = ?",
	} {
		eventually(t, func() bool { // InnoDB may take it for the cause of a deadlock
			_, err := w.DB().ExecContext(t.Context(), statement, rel.ID())
			return err == nil
		}, "the relay's lanes cannot be taken away")
	}
	require.NoError(t, stop())
}

// firsts returns first arrivals, in their order.
func (w *witness) firsts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.order)
}

func (w *witness) requireNoFault(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.NoError(t, w.broken)
	require.Empty(t, w.faults)
}
