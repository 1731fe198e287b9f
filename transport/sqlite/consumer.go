package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport/internal/delivery"
)

// consumer is a subscription's side of the queue: it takes messages under a lease that it keeps
// renewing.
type consumer struct {
	file   *file
	queue  string
	topics []string
	inbox  bool // the queue is one
	lease  time.Duration
	logger *slog.Logger
	ready  chan struct{}
	member atomic.Pointer[member]

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
}

// member is a consumer as the file knows it. In another file at the same path it has to become one
// again.
type member struct{ id, generation int64 }

// idBits are those of a message's id in the file; above them stands the file's generation. What is
// acknowledged to a file that is gone must not hit another message of the next.
const idBits = 40

func (m *member) outside(id int64) int64 { return m.generation<<idBits | id }

// inside returns the ids in the file of those that come from it.
func (m *member) inside(ids []int64) (own []int64) {
	for _, id := range ids {
		if id>>idBits == m.generation {
			own = append(own, id&(1<<idBits-1))
		}
	}
	return own
}

// newConsumer makes the queue, if it is new, binds it to the topics, and joins its consumers.
func newConsumer(
	ctx context.Context, f *file, config Config, queue string, topics []string,
) (*consumer, error) {
	c := &consumer{
		file: f, queue: queue, topics: topics, inbox: config.Inbox, lease: config.Lease,
		logger: config.Logger, ready: make(chan struct{}, 1),
	}
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	f.join(c)
	// ends with Leave, after the last handler
	renew, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stopRenewing = stop
	c.renewing.Go(func() { c.renew(renew) })
	return c, nil
}

// enter makes the queue, unless it is there, and joins its consumers.
func (c *consumer) enter(ctx context.Context) error {
	m := &member{}
	err := c.file.write(ctx, made, durable, func(ctx context.Context, tx transaction) error {
		m.generation = tx.generation
		if err := c.bind(ctx, tx); err != nil {
			return err
		}
		row := tx.QueryRowContext(ctx,
			"INSERT INTO consumers (leased_until, queue) VALUES (?, ?) RETURNING id",
			c.leasedUntil(), c.queue)
		if err := row.Scan(&m.id); err != nil {
			return err
		}
		return c.bury(ctx, tx)
	})
	if err == nil {
		c.member.Store(m)
	}
	return err
}

func (c *consumer) bind(ctx context.Context, tx transaction) error {
	if c.inbox {
		return bindInbox(ctx, tx, c.topics[0])
	}
	for _, topic := range c.topics {
		if err := bind(ctx, tx, c.queue, topic); err != nil {
			return err
		}
	}
	return nil
}

// current returns the consumer as the file knows it that stands at the path now, and enters that if
// it has to.
func (c *consumer) current(ctx context.Context) (*member, *handle, error) {
	for {
		h, err := c.file.open(ctx, made)
		if err != nil {
			return nil, nil, c.file.unavailable(err)
		}
		if m := c.member.Load(); m.generation == h.generation {
			return m, h, nil
		}
		if err := c.enter(ctx); err != nil {
			return nil, nil, err
		}
		c.logger.InfoContext(ctx, "joined the queue in another file at the same path", "queue",
			c.queue, "file", c.file.path)
	}
}

func (c *consumer) Ready() <-chan struct{} { return c.ready }

func (c *consumer) Exchange(
	ctx context.Context, acked, returned []int64, room int,
) (taken []delivery.Taken, err error) {
	m, h, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	acked, returned = m.inside(acked), m.inside(returned)
	if len(acked)+len(returned) == 0 {
		// Reading costs no lock. Most consumers that are woken find that another one was faster, or
		// another queue meant.
		if found, err := c.waiting(ctx, h); err != nil || !found {
			return nil, err
		}
	}
	err = c.file.write(ctx, made, quick, func(ctx context.Context, tx transaction) error {
		if tx.generation != m.generation {
			return errOtherFile
		}
		if err := remove(ctx, tx, acked); err != nil {
			return err
		}
		if err := m.putBack(ctx, tx, returned); err != nil {
			return err
		}
		taken, err = c.take(ctx, tx, m, room)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(returned) > 0 {
		c.file.wake()
	}
	return taken, nil
}

// Leave gives everything back and ends the lease. Should it fail, the lease runs out and another
// consumer does it.
func (c *consumer) Leave(ctx context.Context, acked []int64) error {
	c.file.leave(c)
	c.stopRenewing()
	c.renewing.Wait()
	m := c.member.Load()
	err := c.file.write(ctx, existing, quick, func(ctx context.Context, tx transaction) error {
		if tx.generation != m.generation {
			return nil // it has not entered this one
		}
		if err := remove(ctx, tx, m.inside(acked)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE messages SET consumer = 0 WHERE consumer = ?",
			m.id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM consumers WHERE id = ?", m.id); err != nil {
			return err
		}
		return c.use(ctx, tx)
	})
	c.file.wake()
	return err
}

// errOtherFile is returned where the file was replaced in between.
var errOtherFile = errors.New("another file stands at the path by now")

func (c *consumer) waiting(ctx context.Context, h *handle) (found bool, err error) {
	err = h.reader.QueryRowContext(context.WithoutCancel(ctx),
		"SELECT EXISTS (SELECT 1 FROM messages WHERE consumer = 0 AND queue = ?)", c.queue).Scan(&found)
	return found, c.file.unavailable(err)
}

func remove(ctx context.Context, tx transaction, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	return tx.run(ctx, tx.remove, list(ids))
}

func (m *member) putBack(ctx context.Context, tx transaction, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	return tx.run(ctx, tx.putBack, m.id, list(ids))
}

func (c *consumer) take(
	ctx context.Context, tx transaction, m *member, room int,
) (taken []delivery.Taken, err error) {
	if room == 0 {
		return nil, nil
	}
	take := tx.StmtContext(ctx, tx.take)
	defer take.Close()
	rows, err := take.QueryContext(ctx, m.id, c.queue, room)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	now := time.Now()
	millis := now.UnixMilli()
	var expires int64
	var expired []int64
	for rows.Next() {
		msg := message.NewMessage("", nil)
		t := delivery.Taken{Message: msg}
		var metadata []byte
		if err := rows.Scan(&t.ID, &msg.UUID, &metadata, &msg.Payload, &expires); err != nil {
			return nil, err
		}
		if expires > 0 && expires <= millis {
			expired = append(expired, t.ID)
			continue
		}
		if err := json.Unmarshal(metadata, &msg.Metadata); err != nil {
			return nil, fmt.Errorf("metadata of message %d: %w", t.ID, err)
		}
		t.ID = m.outside(t.ID)
		taken = append(taken, t)
	}
	// RETURNING promises no order.
	slices.SortFunc(taken, func(a, b delivery.Taken) int { return cmp.Compare(a.ID, b.ID) })
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	return taken, c.passOver(ctx, tx, expired, now)
}

func list(ids []int64) string {
	text, _ := json.Marshal(ids) // cannot fail for numbers
	return string(text)
}
