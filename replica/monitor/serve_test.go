package monitor_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/replica/monitor"
	"github.com/cqrsync/cqrsync/transport/memory"
	"github.com/cqrsync/cqrsync/transport/open"
)

// service is a replica that runs until the test ends, and what it answers.
type service struct {
	replica *replica.Replica
	db      *bun.DB
	handler http.Handler
	run     func(message.Subscriber)
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{db: dbtest.Open(t, dbtest.SQLiteURL(t))}
	rep, err := replica.New(s.db, replica.Config{Queue: "stats", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	type Order struct{ ID int64 }
	require.NoError(t, replica.HandleFunc(rep, "order",
		func(context.Context, replica.Event[Order]) error { return nil }))
	require.NoError(t, rep.Migrate(t.Context()))
	s.replica, s.handler = rep, monitor.New(rep).Handler()
	s.run = func(subscriber message.Subscriber) {
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- rep.Run(ctx, subscriber) }()
		t.Cleanup(func() {
			stop()
			require.NoError(t, <-ended)
			require.NoError(t, subscriber.Close())
		})
	}
	return s
}

// answers waits until a path answers with that status and text.
func (s *service) answers(t *testing.T, path string, status int, part string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		recorder := httptest.NewRecorder()
		s.handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		require.Equal(c, status, recorder.Code, recorder.Body)
		require.Contains(c, recorder.Body.String(), part)
	}, time.Minute, 20*time.Millisecond)
}

func TestAReplicaIsReadyWhileItFollows(t *testing.T) {
	s := newService(t)
	s.answers(t, "/healthz", http.StatusOK, "alive")
	s.answers(t, "/readyz", http.StatusServiceUnavailable, "it has not subscribed")
	broker := memory.New()
	s.run(broker.Subscriber("stats"))
	s.answers(t, "/readyz", http.StatusOK, "ready\n")
	s.answers(t, "/metrics", http.StatusOK, `cqrsync_replica_readable{queue="stats"} 1`)

	require.NoError(t, s.db.Close())
	m := envelope.Message{Signal: envelope.Save, Model: "order", PK: []byte("1"), Updated: time.Now()}
	m.Data = envelope.Stamp([]byte(`{"id":1}`), 0, m.Updated)
	body, err := m.Encode()
	require.NoError(t, err)
	carrier := message.NewMessage("", body)
	carrier.Metadata = m.Metadata()
	require.NoError(t, broker.Publisher().Publish("order", carrier))
	s.answers(t, "/readyz", http.StatusServiceUnavailable, "not ready: the database has been away for ")
	require.Equal(t, "database", s.replica.Outages()[0].What)
}

func TestAReplicaWithoutItsBrokerIsNotReady(t *testing.T) {
	s := newService(t)
	const away = "amqp://127.0.0.1:1/" // nobody listens there
	subscriber, err := open.Subscriber(away, "stats", open.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	s.run(subscriber)
	s.answers(t, "/readyz", http.StatusServiceUnavailable, "not ready: the broker has been away for ")
	s.answers(t, "/healthz", http.StatusOK, "alive")
}
