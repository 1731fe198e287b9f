package transports_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// A broker short of disk blocks whoever publishes. That is nobody's message's fault: nothing is parked, no attempt is
// spent, and when the alarm ends everything leaves. The broker is one of the test's own, because others share the first.
func TestAMQPABrokerUnderAlarmIsUnavailableAndCostsNoAttempt(t *testing.T) {
	t.Parallel()
	node := servers.StartRabbitMQ(t)
	node.Control(t, "await_startup")
	config, err := amqp.NewConfig(node.URL()+"?confirm_timeout=300ms", "stats")
	require.NoError(t, err)
	sub, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	require.NoError(t, sub.SubscribeInitialize("order"))
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	accepted(t, pub.PublishBatch(t.Context(), outgoing("order", 1)), 1)

	node.Control(t, "set_disk_free_limit", "1000000GB")
	for range 2 { // on the connection that was there, and on a new one
		errs := pub.PublishBatch(t.Context(), outgoing("order", 2))
		require.ErrorIs(t, errs[0], transport.ErrUnavailable)
		require.ErrorContains(t, errs[1], "RabbitMQ has blocked publishers for 300ms: low on disk")
	}

	s := mastertest.Open(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	require.NoError(t, s.Append(t.Context(), s.DB(), []queue.Message{{
		Model: "order", Key: "1", Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
	}}, nil))
	var log lockedBuffer
	rel, err := relay.New(s.DB(), pub, relay.Config{MaxAttempts: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "broker unavailable, trying again") }, patience, 10*time.Millisecond)
	require.Contains(t, log.String(), "low on disk")
	st, err := s.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), st.Unsent)
	require.Zero(t, st.Retries+st.DeadLetters)
	tables, err := admin.Open(s.DB(), admin.Config{})
	require.NoError(t, err)
	telling, told := context.WithCancel(ctx)
	var saying sync.WaitGroup
	saying.Go(func() {
		diagnosis.Tell(telling, tables, "the relay "+rel.ID(), func() (all []admin.Outage) {
			for _, o := range rel.Outages() {
				all = append(all, admin.Outage{What: o.What, Since: o.Since, Error: o.Err.Error()})
			}
			return all
		}, nil)
	})
	runbook.WillSay(t, "the broker's disk is full", func() string {
		return runbook.Status(t, tables, "--patience", "1ms")
	})
	told()
	saying.Wait()

	node.Control(t, "set_disk_free_limit", "1MB")
	require.Eventually(t, func() bool {
		st, err := s.Status(t.Context())
		require.NoError(t, err)
		return st.Unsent == 0
	}, patience, 20*time.Millisecond)
	require.Zero(t, rel.Stats().Retries+rel.Stats().DeadLetters)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
