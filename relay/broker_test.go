package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

const patience = 30 * time.Second

// broker records what it confirmed, in order.
type broker struct {
	// before is asked ahead of each batch; while it blocks, the broker does not answer. May be nil.
	before func(ctx context.Context, batch []transport.Outgoing)
	// refuse is asked for every message; what it refuses is not recorded. May be nil.
	refuse func(m *envelope.Message) error

	mu   sync.Mutex
	got  []received
	errs []error
}

type received struct {
	topic string
	*envelope.Message
}

func (b *broker) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	if b.before != nil {
		b.before(ctx, batch)
	}
	errs := make([]error, len(batch))
	keys := map[string]bool{}
	for i, out := range batch {
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue
		}
		m, err := envelope.Decode(out.Message.Payload, out.Message.Metadata)
		if err == nil && keys[m.Key] {
			err = fmt.Errorf("key %s has two messages in flight", m.Key)
		}
		if err != nil {
			b.note(err)
			continue
		}
		keys[m.Key] = true
		if b.refuse != nil {
			if errs[i] = b.refuse(m); errs[i] != nil {
				continue
			}
		}
		b.mu.Lock()
		b.got = append(b.got, received{out.Topic, m})
		b.mu.Unlock()
	}
	return errs
}

func (b *broker) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		if err := b.PublishBatch(m.Context(), []transport.Outgoing{{Topic: topic, Message: m}})[0]; err != nil {
			return err
		}
	}
	return nil
}

func (*broker) Close() error { return nil }

func (b *broker) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err)
}

// stock hides the batch ability: a publisher as Watermill has them.
type stock struct{ message.Publisher }

// received returns "key/revision" of everything confirmed so far.
func (b *broker) received() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, len(b.got))
	for i, m := range b.got {
		names[i] = fmt.Sprintf("%s/%d", m.Key, m.Revision)
	}
	return names
}

// requireOrder fails unless every key's revisions arrived in order: each new one above all before it, without a gap.
// Repeats are allowed, as after a crash.
func (b *broker) requireOrder(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(t, b.errs)
	last := map[string]int64{}
	for _, m := range b.got {
		next := last[m.Key] // revisions start at 0, so this is the number of revisions seen
		require.LessOrEqual(t, m.Revision, next, "key %s: revision %d left before %d", m.Key, m.Revision, next)
		last[m.Key] = max(next, m.Revision+1)
	}
}

// env is an outbox with its tables, and the relays that the test runs on it.
type env struct {
	*mastertest.Outbox
	broker *broker
	logs   *logs
}

func newEnv(t *testing.T, db *bun.DB) *env {
	t.Helper()
	s := mastertest.Open(t, db)
	return &env{s, &broker{}, &logs{}}
}

// start runs a relay and returns it with a function that stops it and returns what Run returned. The test stops it in
// any case.
func (e *env) start(t *testing.T, publisher message.Publisher, cfg relay.Config) (*relay.Relay, func() error) {
	t.Helper()
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 10 * time.Second
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 20 * time.Millisecond
	}
	cfg.Logger = slog.New(slog.NewTextHandler(e.logs, nil))
	rel, err := relay.New(e.DB(), publisher, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() }) // the test looks at the result where it matters
	return rel, stop
}

func (e *env) append(t *testing.T, messages ...queue.Message) {
	t.Helper()
	require.NoError(t, e.Append(t.Context(), e.DB(), messages, nil))
}

func (e *env) status(t *testing.T) queue.Status {
	t.Helper()
	st, err := e.Status(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	return st
}

func (e *env) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := e.DB().ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

// requireSent waits until the outbox is empty.
func (e *env) requireSent(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return e.status(t).Unsent == 0 }, "the outbox is not empty")
}

func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, patience, 10*time.Millisecond, message)
}

func wait(t *testing.T, signal <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for "+what)
	}
}

func save(key string, revision int64) queue.Message {
	pk, err := json.Marshal(key)
	if err != nil {
		panic(err)
	}
	m := queue.Message{
		Model: "order", Key: key, Revision: revision, Signal: "SAVE",
		PK: pk, Data: json.RawMessage(`{"status":"new"}`), Updated: time.Now(), Keep: true,
	}
	if revision > 0 {
		after := revision - 1
		m.After = &after
	}
	return m
}

// saves makes revisions 0 to revisions-1 of many keys, interleaved.
func saves(keys, revisions int) []queue.Message {
	var messages []queue.Message
	for revision := range revisions {
		for key := range keys {
			messages = append(messages, save(fmt.Sprint("k", key), int64(revision)))
		}
	}
	return messages
}

// logs is a log that tests read.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.text.Bytes(), []byte(part))
}
