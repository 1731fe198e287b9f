package relay_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// phantoms offers messages that are in no outbox: what of them arrives was not read there.
type phantoms struct {
	*handover.Handover
	id int64
}

func newPhantoms() *phantoms { return &phantoms{handover.New(), 1 << 40} }

func (p *phantoms) offer(before time.Time, messages ...queue.Message) {
	o := handover.Offer{Before: before}
	for _, m := range messages {
		p.id++
		m.ID, m.Follows = p.id, true
		o.Messages = append(o.Messages, m)
	}
	p.Offer(o)
}

func (b *broker) requireReceived(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, func() bool { return len(b.received()) >= len(want) }, "messages do not arrive")
	require.ElementsMatch(t, want, b.received())
	b.requireOrder(t)
}

func TestWhatIsHandedOverLeavesUnread(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		p := newPhantoms()
		rel, _ := e.start(t, e.broker, relay.Config{Handover: p.Handover})
		wait(t, rel.Running(), "lanes")
		p.offer(time.Now(), save("1", 0))
		p.offer(time.Now(), save("1", 1), save("2", 0))
		e.broker.requireReceived(t, "1/0", "1/1", "2/0")
	})
}

func TestAnOfferIsTakenOnlyIfNothingCanBeLeftBehindIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		early := time.Now()
		e.append(t, save("read", 0), save("read", 1))
		p := newPhantoms()
		rel, _ := e.start(t, e.broker, relay.Config{Handover: p.Handover})
		wait(t, rel.Running(), "lanes")
		e.requireSent(t)

		p.offer(early, save("before the lease", 0))
		p.offer(time.Now(), save("unknown", 1))
		p.offer(time.Now(), save("read", 0))
		p.offer(time.Now(), save("read", 3))
		other := save("another relay's", 0)
		other.Lane = 64
		p.offer(time.Now(), other)
		first := save("without a first", 1)
		first.After = nil
		p.offer(time.Now(), first)
		p.Offer(handover.Offer{Before: time.Now(), Messages: []queue.Message{save("something is between", 0)}})
		p.offer(time.Now(), save("read", 2), save("last", 0))
		e.broker.requireReceived(t, "read/0", "read/1", "read/2", "last/0")
	})
}

func TestWhatCannotBeTakenIsReadAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var away atomic.Bool
		e.broker.refuse = func(*envelope.Message) error {
			if away.Load() {
				return transport.ErrUnavailable
			}
			return nil
		}
		p := newPhantoms()
		rel, _ := e.start(t, e.broker, relay.Config{Handover: p.Handover, PollInterval: time.Hour, LeaseTTL: time.Hour})
		wait(t, rel.Running(), "lanes")
		e.append(t, save("1", 0))
		p.Offer(handover.Offer{Rest: true})
		e.broker.requireReceived(t, "1/0")
		e.append(t, save("2", 0), save("2", 1))
		p.offer(time.Now(), save("2", 1))
		e.requireSent(t)

		away.Store(true) // and more is offered than can wait
		e.append(t, save("3", 0))
		p.Offer(handover.Offer{Rest: true})
		eventually(t, func() bool { return rel.Stats().BrokerAway }, "an outage")
		for range 1000 {
			p.Offer(handover.Offer{})
		}
		e.append(t, save("4", 0))
		p.Offer(handover.Offer{Rest: true})
		away.Store(false)
		e.requireSent(t)
	})
}

func TestAnOfferDoesNotOvertakeItsKeyInBackoff(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.broker.refuse = func(m *envelope.Message) error {
			if m.Key == "bad" && m.Revision == 0 {
				return errors.New("not now")
			}
			return nil
		}
		p := newPhantoms()
		rel, _ := e.start(t, e.broker, relay.Config{Handover: p.Handover, RetryMin: time.Hour})
		wait(t, rel.Running(), "lanes")
		p.offer(time.Now(), save("bad", 0))
		eventually(t, func() bool { return rel.Stats().Retries == 1 }, "the failure")
		p.offer(time.Now(), save("bad", 1))
		eventually(t, func() bool { return e.status(t).Retries == 1 }, "the failure is written down")
		p.offer(time.Now(), save("bad", 0))
		p.offer(time.Now(), save("bad", 1), save("good", 0))
		e.broker.requireReceived(t, "good/0")
		require.Equal(t, int64(1), rel.Stats().Retries)
	})
}

// article is written by many at once.
type article struct {
	bun.BaseModel `bun:"table:articles"`
	outbox.Tracked

	ID   int64 `bun:",pk"`
	Text string
}

// A box that hands over, one that does not, SYNCs, a broker that refuses, dead letters that come back, and a second relay
// that comes and goes: whatever way a message takes, the revisions of its key leave in their order.
func TestMessagesThatAreHandedOverAndReadKeepTheirOrder(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		here, elsewhere := newBox(t, db), newBox(t, db)
		_, err := db.NewCreateTable().Model((*article)(nil)).Exec(t.Context())
		require.NoError(t, err)
		e.broker.refuse = func(*envelope.Message) error {
			if rand.IntN(20) == 0 {
				return errors.New("not now")
			}
			return nil
		}
		cfg := relay.Config{BatchSize: 20, MaxAttempts: 2, RetryMin: 5 * time.Millisecond, RetryMax: 5 * time.Millisecond}
		handed := cfg
		handed.Handover = here.Handover()
		rel, _ := e.start(t, e.broker, handed)
		wait(t, rel.Running(), "lanes")

		var writers errgroup.Group
		done := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
					second, stop := e.start(t, e.broker, cfg)
					select {
					case <-second.Running():
					case <-done:
					}
					_ = stop()
				}
			}
		})
		for range 8 {
			writers.Go(func() error {
				for range 40 {
					box := here
					if rand.IntN(5) == 0 {
						box = elsewhere
					}
					if err := writeSomething(t.Context(), box, rand.Int64N(6)); err != nil {
						return err
					}
					if rand.IntN(20) == 0 {
						if err := e.retryDeadLetters(t.Context()); err != nil {
							return err
						}
					}
				}
				return nil
			})
		}
		require.NoError(t, writers.Wait())
		close(done)
		others.Wait()
		e.requireSent(t)

		e.broker.mu.Lock()
		defer e.broker.mu.Unlock()
		require.Empty(t, e.broker.errs)
		again := e.logs.count("lanes lost") > 0 // on a machine that is too busy: then the next owner sends again what it finds
		newest := map[string]int64{}
		for _, m := range e.broker.got {
			require.True(t, again || m.Revision >= newest[m.Key], "key %s: %s of revision %d left late", m.Key, m.Signal, m.Revision)
			newest[m.Key] = m.Revision
		}
	})
}

func newBox(t *testing.T, db *bun.DB) *outbox.Box {
	t.Helper()
	box, err := outbox.New(bun.NewDB(db.DB, db.Dialect()), outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[article](box, "article"))
	return box
}

// writeSomething saves, changes or deletes an article, in one of the ways that writers have, or sends it again.
func writeSomething(ctx context.Context, box *outbox.Box, id int64) error {
	row := &article{ID: id, Text: fmt.Sprint(rand.IntN(1000))}
	if rand.IntN(6) == 0 {
		_, err := box.Sync(ctx, "article", []json.RawMessage{json.RawMessage(fmt.Sprint(id))}, outbox.SyncOptions{})
		if db.Conflicted(err) {
			return nil
		}
		return err
	}
	err := box.RetryInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		var err error
		switch rand.IntN(5) {
		case 0:
			_, err = tx.NewDelete().Model(row).WherePK().Exec(ctx)
		case 1:
			_, err = tx.NewUpdate().Model(row).Column("text").WherePK().Exec(ctx)
		default:
			var exists bool
			if exists, err = tx.NewSelect().Model((*article)(nil)).Where("id = ?", id).Exists(ctx); err != nil {
				return err
			}
			if exists {
				_, err = tx.NewUpdate().Model(row).WherePK().Exec(ctx)
			} else {
				_, err = tx.NewInsert().Model(row).Exec(ctx)
			}
		}
		return err
	})
	if db.SQLState(err) == "23505" || db.SQLiteCode(err)&0xff == 19 { // another one inserted it
		return nil
	}
	return err
}

func (e *env) retryDeadLetters(ctx context.Context) error {
	var ids []int64
	err := e.DeadLetters(ctx, db.DeadLetterFilter{}, 0, func(d queue.DeadLetter) error {
		ids = append(ids, d.ID)
		return nil
	})
	for _, id := range ids {
		retried := e.RetryDeadLetter(ctx, id)
		if !errors.Is(retried, queue.ErrSuperseded) && !errors.Is(retried, sql.ErrNoRows) && !db.Conflicted(retried) {
			err = errors.Join(err, retried)
		}
	}
	return err
}
