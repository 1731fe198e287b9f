package replica_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// master is the sending side as far as the wire shows it: revisions go on across delete and re-create, time grows.
type master struct {
	rows map[int64]string
	sent map[int64][]*envelope.Message // per key, in order of revision
}

func newMaster() *master {
	return &master{rows: make(map[int64]string), sent: make(map[int64][]*envelope.Message)}
}

func (m *master) write(id int64, text string) {
	m.send(save(id, m.next(id), text), id)
	m.rows[id] = text
}

func (m *master) delete(id int64) { m.send(del(id, m.next(id)), id); delete(m.rows, id) }

func (m *master) next(id int64) int64 { return int64(len(m.sent[id])) }

func (m *master) send(message *envelope.Message, id int64) {
	if message.Revision > 0 {
		after := message.Revision - 1
		message.After = &after
	}
	m.sent[id] = append(m.sent[id], message)
}

// P6, P7, P8: whatever order the messages come in, however often, and whichever are lost but the last of each key.
func TestAnyOrderEndsInTheMastersState(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		handler := f.Handler()
		var base atomic.Int64 // every check has keys of its own: the database stays
		rapid.Check(t, func(t *rapid.T) {
			const keys = 3
			first := base.Add(keys)
			m := newMaster()
			for i := range rapid.IntRange(1, 8).Draw(t, "writes") {
				id := first + rapid.Int64Range(0, keys-1).Draw(t, "key")
				if _, live := m.rows[id]; live && rapid.Bool().Draw(t, "delete") {
					m.delete(id)
				} else {
					m.write(id, strconv.Itoa(i))
				}
			}
			var delivered []*envelope.Message
			for _, messages := range m.sent {
				for i, message := range messages {
					times := rapid.IntRange(0, 2).Draw(t, "times")
					if i == len(messages)-1 {
						times++
					}
					for range times {
						delivered = append(delivered, message)
					}
				}
			}
			for _, message := range rapid.Permutation(delivered).Draw(t, "order") {
				require.NoError(t, handler(delivery(t, message)))
			}
			got := notes(t, db)
			for id := first; id < first+keys; id++ {
				want, live := m.rows[id]
				text, there := got[id]
				require.Equal(t, live, there, "key %d", id)
				require.Equal(t, want, text, "key %d", id)
			}
		})
		require.Zero(t, f.Stats().DeadLettered)
	})
}

// Competing consumers of one queue: the gate's lock is all that keeps them apart.
func TestRacingConsumersEndInTheNewestState(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		const consumers, keys, revisions = 4, 2, 12
		m := newMaster()
		for id := range int64(keys) {
			for i := range revisions {
				if i%5 == 4 {
					m.delete(id)
				} else {
					m.write(id, "revision "+strconv.Itoa(i))
				}
			}
		}
		first := newFixture(t, db)
		mirror[Note](first, "note")
		errs := make(chan error, consumers*keys*revisions)
		var done sync.WaitGroup
		var stats [consumers]*fixture
		for i := range consumers {
			f := first
			if i > 0 {
				f = newFixture(t, db)
				require.NoError(t, replica.Register[Note](f.Replica, "note"))
			}
			stats[i] = f
			var shuffled []*envelope.Message
			for id := range int64(keys) {
				shuffled = append(shuffled, m.sent[id]...)
			}
			rand.Shuffle(len(shuffled), func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
			handler := f.Handler()
			done.Go(func() {
				for _, message := range shuffled {
					errs <- handler(delivery(t, message))
				}
			})
		}
		done.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, m.rows, notes(t, db))
		var sum replica.Stats
		for _, f := range stats {
			sum.Applied += f.Stats().Applied
			sum.Duplicates += f.Stats().Duplicates
			sum.Stale += f.Stats().Stale
		}
		require.EqualValues(t, consumers*keys*revisions, sum.Applied+sum.Duplicates+sum.Stale)
		require.LessOrEqual(t, sum.Applied, int64(keys*revisions), "a revision has at most one effect")
		for id := range int64(keys) {
			require.EqualValues(t, revisions-1, first.ledger(id).Revision)
		}
	})
}

// The same for a key that nobody has seen yet: there is no row to lock, and still only one may decide.
func TestOneConsumerAtATimeDecidesAboutAKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		var inside atomic.Int64
		both := make(chan struct{})
		handler := func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			if inside.Add(1) == 2 {
				close(both)
			}
			select {
			case <-both:
			case <-time.After(50 * time.Millisecond): // long enough for the other one, if nothing kept it out
			}
			inside.Add(-1)
			_, err := tx.NewDelete().Model(&e.Data).WherePK().Exec(ctx)
			if err == nil {
				_, err = tx.NewInsert().Model(&e.Data).Exec(ctx)
			}
			return err
		}
		first := newFixture(t, db)
		handle(first, handler)
		second := newFixture(t, db)
		require.NoError(t, replica.Handle(second.Replica, "note", handler))
		var done sync.WaitGroup
		for i, f := range []*fixture{first, second} {
			apply, message := f.Handler(), delivery(t, save(1, int64(i), strconv.Itoa(i)))
			done.Go(func() { _ = apply(message) }) // one of them may be stale; the state tells
		}
		done.Wait()
		select {
		case <-both:
			require.Fail(t, "both were let through at once")
		default:
		}
		require.Equal(t, map[int64]string{1: "1"}, first.notes())
	})
}
