package monitor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/monitor"
	"github.com/cqrsync/cqrsync/transport"
)

const patience = 30 * time.Second

// broker answers every message with what fate holds, nil at first.
type broker struct{ fate atomic.Pointer[error] }

func (b *broker) set(err error) { b.fate.Store(&err) }

func (b *broker) PublishBatch(_ context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	if fate := b.fate.Load(); fate != nil {
		for i := range errs {
			errs[i] = *fate
		}
	}
	return errs
}

func (b *broker) Publish(string, ...*message.Message) error { return nil }
func (*broker) Close() error                                { return nil }
func (*broker) Unroutable() map[string]int64                { return map[string]int64{"lonely": 3} }

type env struct {
	*mastertest.Outbox
	broker  *broker
	monitor *monitor.Monitor
	handler http.Handler
}

// start runs a relay on an empty outbox, watched.
func start(t *testing.T, db *bun.DB, stuckAfter time.Duration) *env {
	t.Helper()
	s := mastertest.Open(t, db)
	watching, err := monitor.New(monitor.Config{StuckAfter: stuckAfter})
	require.NoError(t, err)
	e := &env{Outbox: s, broker: &broker{}, monitor: watching}
	rel, err := relay.New(db, e.monitor.Publisher(e.broker), relay.Config{
		PollInterval: 20 * time.Millisecond, RetryMin: time.Hour, RetryMax: time.Hour, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	e.monitor.Watch(rel)
	e.handler = e.monitor.Handler()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	<-rel.Running()
	return e
}

func (e *env) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	e.handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

// says waits until a path answers with that status and text.
func (e *env) says(t *testing.T, path string, status int, part string) {
	t.Helper()
	var got int
	var body string
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got, body = e.get(t, path)
		require.Equal(c, status, got, body)
		require.Contains(c, body, part)
	}, patience, 20*time.Millisecond)
}

func (e *env) append(t *testing.T, key string) {
	t.Helper()
	require.NoError(t, e.Append(t.Context(), e.DB(), []queue.Message{{
		Model: "order", Key: key, Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
	}}, nil))
}

func TestItIsReadyAndCountsWhileMessagesLeave(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := start(t, db, 0)
		e.says(t, "/healthz", http.StatusOK, "alive\n")
		e.says(t, "/readyz", http.StatusOK, "ready\n")
		for i := range 3 {
			e.append(t, fmt.Sprint(i))
		}
		e.says(t, "/metrics", http.StatusOK, "cqrsync_relay_confirmed_messages_total 3\n")
		for _, series := range []string{
			"cqrsync_relay_published_messages_total 3", "cqrsync_relay_batch_messages_sum 3", "cqrsync_relay_batch_seconds_count",
			"cqrsync_relay_lanes 64", "cqrsync_relay_ready 1", `cqrsync_relay_unroutable_messages_total{topic="lonely"} 3`,
			"cqrsync_outbox_lanes_owned 64", "cqrsync_outbox_unsent_messages ", "cqrsync_outbox_oldest_age_seconds ",
			"cqrsync_outbox_readable 1", "go_goroutines ", "cqrsync_relay_retries_total 0", "cqrsync_relay_dead_letters_total 0",
			"cqrsync_relay_compacted_messages_total 0", "cqrsync_relay_leases_lost_total 0", `cqrsync_relay_breaker_open{of="broker"} 0`,
		} {
			e.says(t, "/metrics", http.StatusOK, "\n"+series)
		}
		problems, err := testutil.CollectAndLint(e.monitor)
		require.NoError(t, err)
		require.Empty(t, problems)
	})
}

func TestItIsNotReadyWhileNothingLeavesAndSaysWhy(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := start(t, db, 50*time.Millisecond)
		e.says(t, "/readyz", http.StatusOK, "ready\n")
		e.broker.set(fmt.Errorf("dial tcp 127.0.0.1:1: refused: %w", transport.ErrUnavailable))
		e.append(t, "1")
		e.says(t, "/readyz", http.StatusServiceUnavailable, "not ready: its oldest message has waited for ")
		e.says(t, "/readyz", http.StatusServiceUnavailable, "s: the broker has been away for ")
		e.says(t, "/readyz", http.StatusServiceUnavailable, "s: dial tcp 127.0.0.1:1: refused: broker unavailable\n")
		e.says(t, "/metrics", http.StatusOK, "cqrsync_relay_ready 0\n")
		e.says(t, "/metrics", http.StatusOK, `cqrsync_relay_breaker_open{of="broker"} 1`)
		e.broker.set(nil)
		e.says(t, "/readyz", http.StatusOK, "ready\n")
	})
}

func TestAParkedKeyAloneDoesNotMakeItUnready(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := start(t, db, time.Millisecond)
		e.broker.set(errors.New("too large"))
		e.append(t, "1")
		e.says(t, "/metrics", http.StatusOK, "cqrsync_relay_refused_messages_total 1\n")
		e.says(t, "/readyz", http.StatusOK, "ready\n")
		p, err := e.Progress(t.Context(), "somebody else")
		require.NoError(t, err)
		require.Equal(t, queue.Progress{Lanes: 64, Owned: 64}, p)
	})
}

func TestItIsNotReadyWithoutTheDatabase(t *testing.T) {
	m, err := monitor.New(monitor.Config{})
	require.NoError(t, err)
	require.ErrorContains(t, m.Ready(t.Context()), "Watch")

	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rel, err := relay.New(db, m.Publisher(&broker{}), relay.Config{})
	require.NoError(t, err)
	m.Watch(rel)
	e := &env{monitor: m, handler: m.Handler()}
	e.says(t, "/readyz", http.StatusServiceUnavailable, "not ready: the state of the outbox is not known: ")
	e.says(t, "/metrics", http.StatusOK, "cqrsync_outbox_readable 0\n")
	e.says(t, "/healthz", http.StatusOK, "alive\n")
}

// standby is a relay whose lanes are as told.
type standby struct {
	monitor.Relay
	progress relay.Progress
}

func (s standby) Progress(context.Context) (relay.Progress, error) { return s.progress, nil }

func readiness(t *testing.T, p relay.Progress) error {
	t.Helper()
	m, err := monitor.New(monitor.Config{})
	require.NoError(t, err)
	m.Watch(standby{progress: p})
	return m.Ready(t.Context())
}

func TestARelayWithoutLanesIsReadyWhereOthersHaveThemAll(t *testing.T) {
	require.NoError(t, readiness(t, relay.Progress{Lanes: 64, Owned: 64}))
	require.ErrorContains(t, readiness(t, relay.Progress{Lanes: 64, Owned: 60}), "it owns no lane, and 4 of 64 have no live owner")
	require.NoError(t, readiness(t, relay.Progress{Lanes: 64, Owned: 60, Own: 60}), "it has its share")
	orphans := relay.Progress{Lanes: 64, Owned: 60, Own: 60, OrphanAge: time.Minute}
	require.ErrorContains(t, readiness(t, orphans), "4 of 64 lanes have no live owner, and their oldest message has waited for 1m0s")
}

// checked is a broker that can be asked.
type checked struct {
	broker
	asked atomic.Int64
	login atomic.Pointer[error]
}

func (c *checked) refuse(err error) { c.login.Store(&err) }

func (c *checked) Probe(context.Context) error {
	c.asked.Add(1)
	return *c.login.Load()
}

func TestItIsNotReadyWhileTheBrokerRefusesTheLoginAlthoughNothingWaits(t *testing.T) {
	m, err := monitor.New(monitor.Config{StuckAfter: time.Millisecond})
	require.NoError(t, err)
	b := &checked{}
	b.refuse(fmt.Errorf("%w: ACCESS_REFUSED", transport.ErrUnavailable))
	publisher := m.Publisher(b)
	m.Watch(standby{progress: relay.Progress{Lanes: 64, Owned: 64, Own: 64}})
	for range 10 {
		require.ErrorIs(t, m.Ready(t.Context()), transport.ErrUnavailable)
		require.ErrorContains(t, m.Ready(t.Context()), "nothing waits, but the broker could not take it if it did: ")
	}
	require.EqualValues(t, 1, b.asked.Load(), "the broker is not asked each time")
	require.ErrorContains(t, publisher.(transport.Prober).Probe(t.Context()), "ACCESS_REFUSED", "the relay can ask, too")
	b.refuse(nil)
	require.Eventually(t, func() bool { return m.Ready(t.Context()) == nil }, patience, 20*time.Millisecond)
}

func TestABrokerThatTookAMessageJustNowIsNotAsked(t *testing.T) {
	m, err := monitor.New(monitor.Config{StuckAfter: time.Hour})
	require.NoError(t, err)
	b := &checked{}
	b.refuse(fmt.Errorf("%w: ACCESS_REFUSED", transport.ErrUnavailable))
	publisher := m.Publisher(b)
	m.Watch(standby{progress: relay.Progress{Lanes: 64, Owned: 64, Own: 64}})
	require.Equal(t, []error{nil}, publisher.PublishBatch(t.Context(), make([]transport.Outgoing, 1)))
	require.NoError(t, m.Ready(t.Context()))
	require.Zero(t, b.asked.Load())
}

func TestEveryFateIsCountedAsWhatItIs(t *testing.T) {
	m, err := monitor.New(monitor.Config{})
	require.NoError(t, err)
	b := &broker{}
	publisher := m.Publisher(b)
	for _, fate := range []error{
		nil, fmt.Errorf("1: %w", transport.ErrUnroutable), fmt.Errorf("2: %w", transport.ErrRejected),
		errors.New("3: too large"), fmt.Errorf("4: %w", transport.ErrUnavailable),
	} {
		b.set(fate)
		errs := publisher.PublishBatch(t.Context(), make([]transport.Outgoing, 2))
		require.Equal(t, []error{fate, fate}, errs, "passed on as it is")
	}
	e := &env{monitor: m, handler: m.Handler()}
	_, body := e.get(t, "/metrics")
	for _, kind := range []string{"confirmed", "returned", "nacked", "refused", "unavailable"} {
		require.Contains(t, body, "\ncqrsync_relay_"+kind+"_messages_total 2\n")
	}
	require.Contains(t, body, "\ncqrsync_relay_batch_messages_count 5\n")
}

func TestItListensOnLoopbackUnlessAHostIsNamed(t *testing.T) {
	for _, address := range []string{"0", ":0", "127.0.0.1:0"} {
		listener, err := monitor.Listen(t.Context(), address)
		require.NoError(t, err)
		require.True(t, listener.Addr().(*net.TCPAddr).IP.IsLoopback(), address)
		require.NoError(t, listener.Close())
	}
	for _, address := range []string{"", "localhost", "70000", "http", "::1"} {
		_, err := monitor.Listen(t.Context(), address)
		require.ErrorContains(t, err, "want HOST:PORT, or PORT for the loopback interface", address)
	}
}

func TestServeAnswersUntilItsContextEnds(t *testing.T) {
	m, err := monitor.New(monitor.Config{})
	require.NoError(t, err)
	listener, err := monitor.Listen(t.Context(), "0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + listener.Addr().String() + "/healthz")
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "alive\n", string(body))
	stop()
	require.NoError(t, <-ended)
	_, err = client.Get("http://" + listener.Addr().String() + "/healthz") //nolint:bodyclose // there is no answer
	require.Error(t, err)
}

func TestNewRefusesNegativeTimes(t *testing.T) {
	_, err := monitor.New(monitor.Config{StuckAfter: -1})
	require.ErrorContains(t, err, "StuckAfter is -1ns")
}
