package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// backlog is an outbox on PostgreSQL that can be filled with the same messages again and again.
type backlog struct {
	*mastertest.Outbox
	url  string
	far  *bun.DB // how relays reach it, if not directly
	rows int
	drop func() error
}

// newBacklog writes rows messages of keys keys, key after key and then their next revisions. With
// keep none replaces another.
func newBacklog(ctx context.Context, rows, keys int, keep bool) (b *backlog, err error) {
	at, db, drop, err := openSchema(ctx)
	if err != nil {
		return nil, err
	}
	collectAt := debug.SetGCPercent(400) // as "relay run" does; for the hand-written cases too
	b = &backlog{url: at, rows: rows, drop: func() error {
		debug.SetGCPercent(collectAt)
		return drop()
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.drop())
		}
	}()
	if b.Outbox, err = mastertest.New(db); err != nil {
		return nil, err
	}
	if err = b.Make(ctx); err != nil {
		return nil, err
	}
	messages := make([]queue.Message, rows)
	for i := range messages {
		messages[i] = backlogMessage(i%keys, int64(i/keys), keep)
	}
	for chunk := range slices.Chunk(messages, 5000) {
		if err = b.Append(ctx, db, chunk, nil); err != nil {
			return nil, err
		}
	}
	return b, b.exec(ctx, "CREATE TABLE full_outbox AS SELECT * FROM outbox_messages ORDER BY id",
		"ALTER TABLE full_outbox DROP COLUMN id, ADD COLUMN n serial", "TRUNCATE outbox_messages")
}

// note makes messages about as large as they are in performance studies: 500 bytes on the wire.
var note = strings.Repeat("a note of some length, ", 11)

func backlogMessage(key int, revision int64, keep bool) queue.Message {
	id := strconv.Itoa(key)
	m := queue.Message{
		Model: "order", Key: id, Revision: revision, Signal: "SAVE", Updated: time.Now(),
		Keep: keep, PK: json.RawMessage(id), Data: json.RawMessage(fmt.Sprintf(
			`{"id":%s,"customer":"customer %s","status":"status %d","total":%d,"note":%q}`,
			id, id, revision, key*100, note)),
	}
	if revision > 0 {
		after := revision - 1
		m.After = &after
	}
	return m
}

// wire is what a relay makes of it.
func wire(m queue.Message) ([]byte, error) {
	e := envelope.Message{
		Signal: envelope.Signal(m.Signal), Model: m.Model, PK: m.PK,
		Data:     envelope.AppendStamp(nil, m.Data, m.Revision, m.Updated),
		Revision: m.Revision, Updated: m.Updated,
	}
	return e.Encode()
}

func (b *backlog) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := b.DB().ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// clear empties the outbox, for good. No case is to pay for what PostgreSQL has
// not written yet of the one before.
func (b *backlog) clear(ctx context.Context) error {
	return b.exec(ctx, "TRUNCATE outbox_messages, outbox_retries, outbox_dead_letters, outbox_relays",
		"UPDATE outbox_lanes SET owner = NULL, expires_at = NULL", "VACUUM outbox_lanes", "CHECKPOINT")
}

// fill writes the messages, in one transaction.
func (b *backlog) fill(ctx context.Context) error {
	return b.exec(ctx, `
		INSERT INTO outbox_messages (lane, model, key, revision, after, signal, queue, pk, data,
			previous, meta, headers, correlation_id, updated_at, created_at, expires_at, keep)
		SELECT lane, model, key, revision, after, signal, queue, pk, data, previous, meta, headers,
			correlation_id, updated_at, created_at, expires_at, keep FROM full_outbox ORDER BY n`)
}

// calm waits for the claim that a relay may have begun during fill: it looks at all that
// was being written, and sees none.
func (b *backlog) calm(ctx context.Context) error {
	for {
		var claiming bool
		err := b.DB().NewRaw(`SELECT EXISTS (SELECT 1 FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()
				AND state = 'active' AND query LIKE '%outbox_messages%')`,
		).Scan(ctx, &claiming)
		if err != nil || !claiming {
			return err
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// relays runs relays that own their fair shares.
type relays struct {
	all   []*relay.Relay
	wakes []chan struct{}
	stop  func() error
}

func (b *backlog) start(
	ctx context.Context, publisher func() message.Publisher, n int,
) (*relays, error) {
	ctx, cancel := context.WithCancel(ctx)
	group := &relays{}
	var running sync.WaitGroup
	errs := make([]error, n)
	group.stop = func() error {
		cancel()
		running.Wait()
		return errors.Join(errs...)
	}
	for i := range n {
		wake := make(chan struct{}, 1)
		config := relay.Config{Logger: slog.New(slog.DiscardHandler), Wake: wake}
		if n > 1 {
			config.LeaseTTL = 3 * time.Second // they share the lanes out before the clock starts
		}
		rel, err := relay.New(cmp.Or(b.far, b.DB()), publisher(), config)
		if err != nil {
			return nil, errors.Join(err, group.stop())
		}
		group.all, group.wakes = append(group.all, rel), append(group.wakes, wake)
		running.Go(func() { errs[i] = rel.Run(ctx) })
	}
	unequal := func(r *relay.Relay) bool { return r.Stats().Lanes != int64(64/n) }
	for slices.ContainsFunc(group.all, unequal) {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, errors.Join(err, group.stop())
		}
	}
	return group, nil
}

// wake does what an outbox.Box does after a commit.
func (g *relays) wake() {
	for _, wake := range g.wakes {
		wake <- struct{}{}
	}
}

// settled counts the messages that are published or were replaced.
func (g *relays) settled() (n int) {
	for _, r := range g.all {
		stats := r.Stats()
		n += int(stats.Published + stats.Compacted)
	}
	return n
}

// drain fills the outbox while the relays are idle, and returns how long they take to empty it.
func (b *backlog) drain(
	ctx context.Context, publisher func() message.Publisher, n int,
) (took time.Duration, err error) {
	if err := b.clear(ctx); err != nil {
		return 0, err
	}
	group, err := b.start(ctx, publisher, n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, group.stop()) }()
	if err := b.fill(ctx); err != nil {
		return 0, err
	}
	if err := b.calm(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	group.wake()
	for {
		took = time.Since(start)
		if group.settled() >= b.rows {
			return took, nil
		}
		// Whoever looks needs a core, too.
		if err := pause(ctx, max(time.Millisecond, took/500)); err != nil {
			return 0, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// nowhere is a publisher that takes everything, and knows afterwards whether the order per key was
// kept. To look at that at once costs a tenth of what the relay does, and is no part of it.
type nowhere struct {
	seed  maphash.Seed
	wait  time.Duration // how long a batch takes, beside others
	mu    sync.Mutex
	taken []taken
}

type taken struct {
	key      uint64 // its hash
	revision int64  // -1 for none
}

func newNowhere() *nowhere { return &nowhere{seed: maphash.MakeSeed()} }

func (p *nowhere) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	if p.wait > 0 {
		_ = pause(ctx, p.wait) // the relay asks ctx itself
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, out := range batch {
		revision, err := strconv.ParseInt(out.Message.Metadata.Get("cqrs_revision"), 10, 64)
		if err != nil {
			revision = -1
		}
		key := maphash.String(p.seed, out.Message.Metadata.Get("cqrs_key"))
		p.taken = append(p.taken, taken{key, revision})
	}
	return make([]error, len(batch))
}

// outOfOrder counts the messages that did not follow an older one of their key.
func (p *nowhere) outOfOrder() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := map[uint64]int64{}
	for _, m := range p.taken {
		if before, known := last[m.key]; m.revision < 0 || known && before >= m.revision {
			n++
		}
		last[m.key] = m.revision
	}
	return n
}

func (p *nowhere) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		p.PublishBatch(context.Background(), []transport.Outgoing{{Topic: topic, Message: m}})
	}
	return nil
}

func (*nowhere) Close() error { return nil }
