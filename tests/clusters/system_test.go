package clusters

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

const (
	// patience ends a test that would otherwise hang; nothing is measured by it.
	patience = 90 * time.Second
	keys     = 200
	writers  = 2
	// pace is how long a writer rests between transactions.
	pace = 4 * time.Millisecond
)

type Item struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked

	ID int64 `bun:",pk"`
	N  int64
}

type Copy struct {
	bun.BaseModel `bun:"table:items"`

	ID int64 `bun:",pk"`
	N  int64
}

// Handled is a change that the replica has made, in the order in which it did.
type Handled struct {
	bun.BaseModel `bun:"table:handled"`

	Seq      int64 `bun:",pk,autoincrement"`
	Key      string
	Revision int64
}

// system is a master with writers and relays, and a replica, which all go through some broker.
// Beside the replica's queue stands one that nobody reads before the end: what is in it is what
// arrived, in its order.
type system struct {
	t       *testing.T
	broker  string
	master  *bun.DB
	copies  *bun.DB
	box     *outbox.Box
	rep     *replica.Replica
	stop    context.CancelFunc
	running sync.WaitGroup
	halt    chan struct{} // closed when writers end
	ending  sync.Once
	writing sync.WaitGroup

	next func() []byte // reads the queue that nobody reads, in its order; nil at its end
	hung bool          // a node went on where it had stopped, perhaps with what is sent long since

	written  atomic.Int64 // the number that the next change writes
	gaps     atomic.Int64
	refusals atomic.Int64 // transactions that failed

	mu      sync.Mutex
	applied time.Time     // when something was, last
	pause   time.Duration // the longest between two
	seen    map[int64]int64
	acked   map[int64]int64 // what each row had to hold when its last transaction was acknowledged
}

// logger shows what the parts say where CQRSYNC_TEST_LOG is set.
func logger(part string) *slog.Logger {
	if os.Getenv("CQRSYNC_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", part)
}

// newSystem starts everything but the writers.
func newSystem(t *testing.T, master, copies, broker string) *system {
	t.Helper()
	s := &system{
		t: t, broker: broker, halt: make(chan struct{}),
		seen: map[int64]int64{}, acked: map[int64]int64{},
	}
	s.next = s.consumed("audit")
	s.master, s.copies = s.create(master, (*Item)(nil)), s.create(copies, (*Copy)(nil), (*Handled)(nil))
	var err error
	s.box, err = outbox.New(s.master, outbox.Config{Logger: logger("box")})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Item](s.box, "item"))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.rep, err = replica.New(s.copies, replica.Config{
		Queue: "stats", Logger: logger("replica"),
		OnGap: func(context.Context, replica.Gap) { s.gaps.Add(1) },
	})
	require.NoError(t, err)
	require.NoError(t, s.rep.Migrate(t.Context()))
	require.NoError(t, replica.HandleBatch(s.rep, "item", s.handle))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s.stop = sync.OnceFunc(func() { cancel(); s.running.Wait() })
	t.Cleanup(func() { s.endWriters(); s.stop(); require.NoError(t, s.box.Close()) })
	s.keepAudit()
	s.replicate(ctx)
	s.relay(ctx)
	s.relay(ctx)
	return s
}

func (s *system) create(url string, models ...any) *bun.DB {
	s.t.Helper()
	db, err := database.Open(url)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, db.Close()) })
	for _, model := range models {
		_, err := db.NewCreateTable().Model(model).Exec(s.t.Context())
		require.NoError(s.t, err)
	}
	return db
}

// handle does what a replica's service does, and notes it.
func (s *system) handle(ctx context.Context, tx bun.Tx, events []replica.Event[Copy]) error {
	now := time.Now()
	for _, event := range events {
		note := Handled{Key: event.Key, Revision: event.Revision}
		if _, err := tx.NewInsert().Model(&note).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(&event.Data).On("CONFLICT (id) DO UPDATE").
			Set("n = EXCLUDED.n").Exec(ctx)
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.applied.IsZero() {
		s.pause = max(s.pause, now.Sub(s.applied))
	}
	s.applied = now
	for _, event := range events {
		s.seen[event.Data.ID] = max(s.seen[event.Data.ID], event.Data.N)
	}
	return nil
}

func (s *system) subscriber(queue string) transport.WindowSubscriber {
	s.t.Helper()
	sub, err := open.Subscriber(s.broker, queue, open.Options{Logger: logger(queue)})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, sub.Close()) })
	return sub
}

// keepAudit makes the queue that nobody reads.
func (s *system) keepAudit() {
	s.t.Helper()
	keeper := s.subscriber("audit").(transport.QueueKeeper)
	require.NoError(s.t, keeper.KeepQueue(s.t.Context(), []string{"item"}))
}

func (s *system) replicate(ctx context.Context) {
	s.t.Helper()
	sub := s.subscriber("stats")
	ended := make(chan error, 1)
	s.running.Go(func() { ended <- s.rep.Run(ctx, sub) })
	select {
	case <-s.rep.Running():
	case err := <-ended:
		require.FailNow(s.t, "the replica ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(s.t, "the replica does not run")
	}
	s.t.Cleanup(func() { s.stop(); require.NoError(s.t, <-ended) })
}

func (s *system) relay(ctx context.Context) {
	s.t.Helper()
	pub, err := open.Publisher(s.broker, open.Options{RequireQueue: true, Logger: logger("publisher")})
	require.NoError(s.t, err)
	rel, err := relay.New(s.master, pub, relay.Config{LeaseTTL: 4 * time.Second, Logger: logger("relay")})
	require.NoError(s.t, err)
	ended := make(chan error, 1)
	s.running.Go(func() { ended <- rel.Run(ctx) })
	s.t.Cleanup(func() {
		s.stop()
		require.NoError(s.t, <-ended)
		require.NoError(s.t, pub.Close())
	})
}

// write starts the writers.
func (s *system) write() {
	for w := range writers {
		s.writing.Go(func() {
			for {
				select {
				case <-s.halt:
					return
				case <-time.After(pace):
				}
				id := rand.Int64N(keys/writers)*writers + int64(w) // a row has one writer
				n := s.written.Add(1)
				if s.change(id, n) != nil {
					s.refusals.Add(1)
					continue
				}
				s.mu.Lock()
				s.acked[id] = n
				s.mu.Unlock()
			}
		})
	}
}

func (s *system) change(id, n int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), patience)
	defer cancel()
	return s.box.RetryInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&Item{ID: id, N: n}).On("CONFLICT (id) DO UPDATE").
			Set("n = EXCLUDED.n").Exec(ctx)
		return err
	})
}

func (s *system) endWriters() {
	s.ending.Do(func() { close(s.halt) })
	s.writing.Wait()
}

// flows waits until so many further changes have arrived.
func (s *system) flows(changes int64) {
	s.t.Helper()
	from := s.written.Load()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range s.seen {
			if n >= from+changes {
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond, "what is written now does not arrive")
}

// during causes trouble, waits until changes flow again, and prints the longest pause.
func (s *system) during(what string, trouble func()) time.Duration {
	s.t.Helper()
	s.flows(50)
	s.mu.Lock()
	s.pause = 0
	s.mu.Unlock()
	began := time.Now()
	trouble()
	s.flows(50)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("%-60s longest pause %5.1f s, flowing again after %5.1f s", what, s.pause.Seconds(),
		time.Since(began).Seconds())
	return s.pause
}

// finish ends the writers, and sees that nothing is lost, that each key was in order, and that both
// sides are equal.
func (s *system) finish() {
	s.t.Helper()
	s.endWriters()
	s.becomesEqual()
	s.stop()
	require.Zero(s.t, s.gaps.Load(), "revisions that the replica never got")
	var all []Handled
	require.NoError(s.t, s.copies.NewSelect().Model(&all).Order("seq").Scan(s.t.Context()))
	last := map[string]int64{}
	for _, h := range all {
		before, known := last[h.Key]
		require.True(s.t, !known || h.Revision > before, "key %s: %d after %d", h.Key, h.Revision, before)
		last[h.Key] = h.Revision
	}
	again, late := s.audit(last)
	s.t.Logf("%d transactions, %d refused, %d handled; %d messages came twice, %d behind newer ones",
		s.written.Load(), s.refusals.Load(), len(all), again, late)
}

func (s *system) becomesEqual() {
	s.t.Helper()
	var master, copies map[int64]int64
	require.Eventually(s.t, func() bool {
		master, copies = s.rows(s.master), s.rows(s.copies)
		return maps.Equal(master, copies)
	}, patience, 50*time.Millisecond, "the replica does not become equal")
	require.NotEmpty(s.t, master)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.acked {
		require.GreaterOrEqual(s.t, master[id], n, "row %d: what was acknowledged is lost", id)
	}
}

func (s *system) rows(db *bun.DB) map[int64]int64 {
	var list []Copy
	if db.NewSelect().Model(&list).Scan(s.t.Context()) != nil {
		return nil
	}
	rows := map[int64]int64{}
	for _, row := range list {
		rows[row.ID] = row.N
	}
	return rows
}

// audit looks into the queue that nobody read, and returns how many messages are in it twice. Of
// each key it must have the revisions in order, and the last one.
func (s *system) audit(want map[string]int64) (again, late int) {
	s.t.Helper()
	last := map[string]int64{}
	seen := map[string]bool{}
	for !maps.Equal(last, want) {
		body := s.next()
		require.NotNil(s.t, body, "not all is in the other queue")
		m, err := envelope.Decode(body, nil)
		require.NoError(s.t, err)
		id := m.Key + " " + strconv.FormatInt(m.Revision, 10)
		before, known := last[m.Key]
		switch {
		case seen[id]:
			again++
		case !known || m.Revision > before:
			last[m.Key] = m.Revision
		default:
			require.True(s.t, s.hung, "key %s: %d after %d", m.Key, m.Revision, before)
			late++
		}
		seen[id] = true
	}
	return again, late
}

// consumed reads a queue as a replica does. Where the broker gives up nobody's messages meanwhile,
// that is their order in the queue.
func (s *system) consumed(queue string) (next func() []byte) {
	var messages <-chan *message.Message
	return func() []byte {
		s.t.Helper()
		if messages == nil {
			var err error
			messages, err = s.subscriber(queue).SubscribeWindow(s.t.Context(), "item", 500)
			require.NoError(s.t, err)
		}
		select {
		case msg := <-messages:
			msg.Ack()
			return msg.Payload
		case <-time.After(patience):
			return nil
		}
	}
}
