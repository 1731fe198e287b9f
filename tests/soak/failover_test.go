package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// holding is a publisher that confirms everything, and can be held before it does.
type holding struct {
	mu     sync.Mutex
	got    map[string]bool          // payloads
	of     map[string]bool          // incarnations
	to     transport.BatchPublisher // a replica gets each
	held   chan struct{}            // closed when a batch waits
	goOn   chan struct{}
	holdAt string // a model's key that the batch must have
}

func (h *holding) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	for _, out := range batch {
		m, err := envelope.Decode(out.Message.Payload, out.Message.Metadata)
		if err != nil {
			return []error{err}
		}
		h.mu.Lock()
		h.got[m.Key+" "+note(m.Data)] = true
		h.of[m.Incarnation] = true
		hold := m.Key == h.holdAt
		h.mu.Unlock()
		if errs := h.to.PublishBatch(ctx, []transport.Outgoing{out}); errs[0] != nil {
			return errs
		}
		if hold {
			close(h.held)
			<-h.goOn
		}
	}
	return make([]error, len(batch))
}

func (h *holding) Publish(string, ...*message.Message) error { return transport.ErrUnavailable }
func (h *holding) Close() error                              { return nil }

func note(data json.RawMessage) string {
	var row struct{ Note string }
	if json.Unmarshal(data, &row) != nil {
		return ""
	}
	return row.Note
}

func noted(keys int, of string) []queue.Message {
	messages := make([]queue.Message, keys)
	for i := range messages {
		key := fmt.Sprint(i)
		messages[i] = queue.Message{
			Model: "order", Key: key, Signal: "SAVE", Updated: time.Now(), PK: json.RawMessage(key),
			Data: json.RawMessage(fmt.Sprintf(`{"note":%q}`, of)), Revision: 0, Keep: true,
		}
	}
	return messages
}

// TestAFailoverToAStandbyThatWasBehindLosesNothing: the relay has sent messages, or is about to have, that the standby never
// heard of. What is written on the standby then has their identities, and must be sent as well.
func TestAFailoverToAStandbyThatWasBehindLosesNothing(t *testing.T) {
	primary := startPostgres(t)
	db, err := database.Open(primary.url())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	outbox := mastertest.Open(t, db)
	eventually := func(condition func() bool, message string) {
		t.Helper()
		require.Eventually(t, condition, 2*time.Minute, 20*time.Millisecond, message)
	}

	copies := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(copies, replica.Config{Queue: "stats", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, replica.HandleFunc(rep, "order",
		func(context.Context, replica.Event[struct{ Note string }]) error { return nil }))
	require.NoError(t, rep.Migrate(t.Context()))
	carrying := memory.New()
	following, leave := context.WithCancel(context.WithoutCancel(t.Context()))
	left := make(chan error, 1)
	go func() { left <- rep.Run(following, carrying.Subscriber("stats")) }()
	t.Cleanup(func() { leave(); require.NoError(t, <-left) })
	select {
	case <-rep.Running():
	case <-time.After(time.Minute):
		require.FailNow(t, "the replica does not run")
	}
	broker := &holding{to: carrying.Publisher(), got: map[string]bool{}, of: map[string]bool{}, held: make(chan struct{}), goOn: make(chan struct{}), holdAt: "last"}
	rel, err := relay.New(db, broker, relay.Config{Logger: slog.New(slog.DiscardHandler), LeaseTTL: 15 * time.Second})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	release := sync.OnceFunc(func() { close(broker.goOn) })
	stop := sync.OnceValue(func() error {
		release()
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() }) // the test looks at the result where it matters
	eventually(func() bool { return rel.Stats().Lanes == 64 }, "no lanes")

	behind := primary.standby()
	ahead := func(revision int64) queue.Message { // of a key that the replica has in revision 2
		m := noted(1, "ahead")[0]
		m.Key, m.PK, m.Revision = "ahead", json.RawMessage(`"ahead"`), revision
		return m
	}
	require.NoError(t, outbox.Append(t.Context(), db, append(noted(299, "lost"), ahead(2)), nil))
	eventually(func() bool { return rel.Stats().Published >= 300 }, "not published")
	last := noted(200, "lost too")
	last[100].Key, last[100].PK = "last", json.RawMessage(`"last"`)
	require.NoError(t, outbox.Append(t.Context(), db, last, nil))
	select {
	case <-broker.held:
	case <-time.After(time.Minute):
		require.FailNow(t, "nothing is in flight")
	}
	primary.stop("immediate")
	behind.promote()
	broker.mu.Lock()
	broker.holdAt = ""
	broker.mu.Unlock()
	written := noted(700, "new")
	eventually(func() bool { return outbox.Append(t.Context(), db, written, nil) == nil }, "the new server does not take them")
	release()

	eventually(func() bool {
		st, err := outbox.Status(t.Context())
		return err == nil && st.Unsent == 0
	}, "the outbox is not empty")
	require.NoError(t, outbox.Append(t.Context(), db, []queue.Message{ahead(1)}, nil))
	tables, err := admin.Open(copies, admin.Config{})
	require.NoError(t, err)
	runbook.WillSay(t, "the master's database fails over", func() string {
		return runbook.Status(t, tables, "--side", "replica")
	})
	var drawn queue.Incarnation
	eventually(func() (is bool) {
		var err error
		drawn, err = outbox.Incarnation(t.Context())
		return err == nil && strings.Contains(drawn.Reason, "another server")
	}, "no new incarnation was drawn")
	broker.mu.Lock()
	defer broker.mu.Unlock()
	require.Len(t, broker.of, 2, "replicas are told that the history is another one")
	require.True(t, broker.of[drawn.ID])
	lost := 0
	for _, m := range written {
		if !broker.got[m.Key+" new"] {
			lost++
		}
	}
	require.Zero(t, lost, "messages were removed that had never been sent")
	require.Equal(t, int64(1), rel.Stats().LeasesLost)
	require.NoError(t, stop())
}
