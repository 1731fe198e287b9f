package monitor_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/replica/monitor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEverySeriesIsThere(t *testing.T) {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{Queue: "webhooks", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	type Order struct{ ID int64 }
	require.NoError(t, replica.HandleFunc(rep, "order", func(_ context.Context, e replica.Event[Order]) error {
		if e.Data.ID == 2 {
			return errors.New("later")
		}
		return nil
	}))
	handle := rep.Handler()
	for _, pk := range []string{"1", "2"} {
		m := envelope.Message{Signal: envelope.Save, Model: "order", PK: []byte(pk), Updated: time.Now().Add(-time.Minute)}
		m.Data = envelope.Stamp([]byte(`{"id":`+pk+`}`), 0, m.Updated)
		body, err := m.Encode()
		require.NoError(t, err)
		require.NoError(t, handle(message.NewMessage("", body)))
	}
	require.NoError(t, handle(message.NewMessage("", []byte("{"))))

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(monitor.New(rep))
	families, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				if label.GetName() != "queue" {
					name += " " + label.GetValue()
				}
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	require.InDelta(t, 60, values["cqrsync_replica_lag_seconds order"], 10)
	for name, want := range map[string]float64{
		"cqrsync_replica_messages_total applied":        1,
		"cqrsync_replica_messages_total waiting":        1,
		"cqrsync_replica_messages_total dead_letter":    1,
		"cqrsync_replica_messages_total returned":       0,
		"cqrsync_replica_dead_letters_total unreadable": 1,
		"cqrsync_replica_waiting_messages order":        1,
		"cqrsync_replica_overtaken_messages_total":      0,
		"cqrsync_replica_master_changes_total":          0,
		"cqrsync_replica_databases":                     1,
		"cqrsync_replica_readable":                      1,
	} {
		got, there := values[name]
		require.True(t, there, name)
		require.InDelta(t, want, got, 0, name)
	}

	require.NoError(t, db.Close())
	registry = prometheus.NewPedanticRegistry()
	registry.MustRegister(monitor.New(rep))
	_, err = registry.Gather()
	require.NoError(t, err, "a database that is away is a value, not an error")
}

// What is noted of masters and of other databases is in the metrics.
func TestTwoMastersAndTwoDatabasesAreCounted(t *testing.T) {
	service := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(service, replica.Config{Queue: "q", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	d, err := db.New(service, db.Names{})
	require.NoError(t, err)
	s := applied.New(d)
	require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "order", Incarnation: "a-1"}, {Model: "quiet", Incarnation: "a-1"}}))
	require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{
		{Model: "order", Incarnation: "b-1"}, {Model: "order", Incarnation: "a-1", Returns: 1}, {Model: "quiet", Incarnation: "a-2"},
	}))
	for range 2 {
		require.NoError(t, s.NoteNeighbour(t.Context(), "q", "other"))
	}
	require.NoError(t, s.NoteNeighbour(t.Context(), "q", "before"))
	require.NoError(t, testutil.CollectAndCompare(monitor.New(rep), strings.NewReader(`
# HELP cqrsync_replica_databases Databases behind the queue; with more than one, each gets a part of the messages.
# TYPE cqrsync_replica_databases gauge
cqrsync_replica_databases{queue="q"} 2
# HELP cqrsync_replica_masters Incarnations of masters that write a model now; more than one is a mistake.
# TYPE cqrsync_replica_masters gauge
cqrsync_replica_masters{model="order",queue="q"} 2
cqrsync_replica_masters{model="quiet",queue="q"} 1
`), "cqrsync_replica_databases", "cqrsync_replica_masters"))
}
