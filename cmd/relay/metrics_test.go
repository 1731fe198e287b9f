package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/monitor"
	"github.com/cqrsync/cqrsync/replica"
	replicamonitor "github.com/cqrsync/cqrsync/replica/monitor"
	"github.com/cqrsync/cqrsync/transport/open"
)

const metricsHead = `# Metrics

Every series of Prometheus that cqrsync has. This page is written by a test (` + "`UPDATE=1 go test ./cmd/relay -run Metrics`" + `) and
checked by it. Names are never changed, only added. [examples/observability](../examples/observability) has alerts and a dashboard on
them, each alert with its entry in [operations](operations.md).

With OpenTelemetry the same series go where your metrics go: ` + "`otelcqrs.Metrics(monitor)`" + ` is a producer for your reader.
Beside them stand those of the Go runtime and of the process.
`

// worries say of each series when somebody should look. Prose stands here, the rest comes from the
// registries.
var worries = map[string]string{
	"cqrsync_outbox_unsent_messages":    "it grows for long; a backlog after an outage is none",
	"cqrsync_outbox_oldest_age_seconds": "above a minute, and nothing is confirmed",
	"cqrsync_outbox_parked_keys":        "above 0 for long: `relay status` says why",
	"cqrsync_outbox_dead_letters":       "above 0",
	"cqrsync_outbox_relays":             "0, or fewer than you run",
	"cqrsync_outbox_lanes":              "",
	"cqrsync_outbox_lanes_owned":        "below cqrsync_outbox_lanes for a minute",
	"cqrsync_outbox_readable":           "0",

	"cqrsync_relay_published_messages_total":       "no rate while something waits",
	"cqrsync_relay_compacted_messages_total":       "",
	"cqrsync_relay_model_published_messages_total": "",
	"cqrsync_relay_confirm_delay_seconds":          "its 99th percentile is beyond what your readers accept",
	"cqrsync_relay_batches_total":                  "",
	"cqrsync_relay_retries_total":                  "a rate that lasts",
	"cqrsync_relay_dead_letters_total":             "any increase",
	"cqrsync_relay_lanes":                          "",
	"cqrsync_relay_leases_lost_total":              "an increase: the process or its database stood still for longer than a lease",
	"cqrsync_relay_breaker_open":                   "1 for a minute",
	"cqrsync_relay_confirmed_messages_total":       "",
	"cqrsync_relay_returned_messages_total":        "a rate: a replica's queue is missing",
	"cqrsync_relay_nacked_messages_total":          "a rate: a queue is full",
	"cqrsync_relay_refused_messages_total":         "any increase",
	"cqrsync_relay_unavailable_messages_total":     "a rate",
	"cqrsync_relay_unroutable_messages_total":      "a rate, where a replica should follow the topic",
	"cqrsync_relay_ready":                          "0 for a minute",
	"cqrsync_relay_batch_messages":                 "",
	"cqrsync_relay_batch_seconds":                  "its 99th percentile grows: the broker is slow",

	"cqrsync_master_replica_lag_seconds":                      "above what the readers of the replica accept",
	"cqrsync_master_replica_silent":                           "1",
	"cqrsync_master_replica_queue_vanished_timestamp_seconds": "it changes",
	"cqrsync_master_replica_waiting_messages":                 "above 0 for long",
	"cqrsync_master_replica_dead_letters":                     "above 0",
	"cqrsync_master_replica_applied_per_second":               "0 while the lag grows",
	"cqrsync_master_replica_equal_through_timestamp_seconds":  "longer ago than some intervals of --verify-every",
	"cqrsync_troubles":                                        "above 0: the label is the entry in [operations](operations.md)",

	"cqrsync_replica_messages_total":                  "no rate of `applied` while the master writes",
	"cqrsync_replica_dead_letters_total":              "any increase",
	"cqrsync_replica_model_applied_messages_total":    "",
	"cqrsync_replica_apply_delay_seconds":             "its 99th percentile is beyond what your readers accept",
	"cqrsync_replica_waiting_messages":                "above 0 for long",
	"cqrsync_replica_lag_seconds":                     "it grows while the master writes",
	"cqrsync_replica_readable":                        "0",
	"cqrsync_replica_overtaken_messages_total":        "any increase: the master's database went back",
	"cqrsync_replica_master_changes_total":            "an increase that no restore explains",
	"cqrsync_replica_masters":                         "above 1",
	"cqrsync_replica_equal_through_timestamp_seconds": "longer ago than some intervals of the master's --verify-every",
	"cqrsync_replica_databases":                       "above 1",
}

// The page has what the registries have.
func TestMetricsAreAllOnTheirPage(t *testing.T) {
	const path = "../../docs/metrics.md"
	var page strings.Builder
	page.WriteString(metricsHead)
	left := maps.Clone(worries)
	for _, side := range []struct {
		title     string
		collector prometheus.Collector
	}{
		{"## The master: `relay run --health`, package `relay/monitor`", watchedRelay(t)},
		{"## A replica: `relay replicate --health`, package `replica/monitor`", watchedReplica(t)},
	} {
		fmt.Fprintf(&page, "\n%s\n\n| name | type | labels | meaning | when to worry |\n|---|---|---|---|---|\n", side.title)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(side.collector)
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			worry, known := left[f.GetName()]
			require.True(t, known, "%s: say in this test when to worry", f.GetName())
			delete(left, f.GetName())
			var labels []string
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					labels = append(labels, "`"+l.GetName()+"`")
				}
			}
			slices.Sort(labels)
			fmt.Fprintf(&page, "| `%s` | %s | %s | %s | %s |\n", f.GetName(),
				strings.ToLower(f.GetType().String()), strings.Join(slices.Compact(labels), ", "), f.GetHelp(), worry)
		}
		for _, name := range described(side.collector) {
			require.True(t, strings.Contains(page.String(), "`"+name+"`"), "the test makes no sample of %s", name)
		}
	}
	require.Empty(t, left, "no registry has them")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644)) //nolint:gosec // a page of the repository
		return
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(written), page.String(), "run UPDATE=1 go test ./cmd/relay -run Metrics")
}

// described are the names that a collector announces.
func described(c prometheus.Collector) (names []string) {
	out := make(chan *prometheus.Desc, 100)
	c.Describe(out)
	close(out)
	for desc := range out {
		_, rest, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ := strings.Cut(rest, `"`)
		names = append(names, name)
	}
	return names
}

// watchedRelay is a relay that has published, to a topic that no queue takes.
func watchedRelay(t *testing.T) prometheus.Collector {
	t.Helper()
	service := dbtest.Open(t, dbtest.SQLiteURL(t))
	master := mastertest.Open(t, service)
	quiet := slog.New(slog.DiscardHandler)
	broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db") + "?mandatory=false"
	other, err := open.Subscriber(broker, "other", open.Options{Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	_, err = other.Subscribe(t.Context(), "customer") // which makes the file
	require.NoError(t, err)
	publisher, err := open.Publisher(broker, open.Options{Logger: quiet})
	require.NoError(t, err)
	mon, err := monitor.New(monitor.Config{})
	require.NoError(t, err)
	rel, err := relay.New(service, mon.Publisher(publisher), relay.Config{Logger: quiet})
	require.NoError(t, err)
	mon.Watch(rel)
	tables, err := admin.Open(service, admin.Config{})
	require.NoError(t, err)
	mon.WatchTroubles((&options{}).readTroubles(tables))
	mon.WatchReplicas(monitor.Replicas{Read: func(context.Context) ([]monitor.Replica, error) {
		return []monitor.Replica{{
			Queue: "stats", Lag: new(time.Second),
			Models: []monitor.ReplicaModel{{Model: "order", EqualThrough: time.Now()}},
		}}, nil
	}})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, publisher.Close())
	})
	require.NoError(t, master.Append(t.Context(), service, []queue.Message{{
		Model: "order", Key: "1", Signal: "SAVE", PK: []byte("1"), Data: []byte(`{"id":1}`), Updated: time.Now(),
	}}, nil))
	require.Eventually(t, func() bool { return rel.Stats().Published == 1 }, time.Minute, 10*time.Millisecond)
	return mon
}

// watchedReplica is a replica that has applied a message, has one that waits and gave one up.
func watchedReplica(t *testing.T) prometheus.Collector {
	t.Helper()
	service := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(service, replica.Config{Queue: "stats", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	d, err := db.New(service, db.Names{})
	require.NoError(t, err)
	own := applied.New(d)
	require.NoError(t, own.NoteMasters(t.Context(), []applied.Master{{Model: "order", Incarnation: "a-1"}}))
	require.NoError(t, own.NoteVerification(t.Context(), applied.Verification{
		Queue: "stats", Model: "order", Outcome: "equal", Through: time.Now(), Ended: time.Now(),
	}))
	type order struct{ ID int64 }
	require.NoError(t, replica.HandleFunc(rep, "order", func(_ context.Context, e replica.Event[order]) error {
		if e.Data.ID == 2 {
			return errors.New("later")
		}
		return nil
	}))
	for _, pk := range []string{"1", "2"} {
		m := envelope.Message{Signal: envelope.Save, Model: "order", PK: []byte(pk), Updated: time.Now()}
		m.Data = envelope.Stamp([]byte(`{"id":`+pk+`}`), 0, m.Updated)
		body, err := m.Encode()
		require.NoError(t, err)
		carrier := message.NewMessage("", body)
		carrier.Metadata = m.Metadata()
		require.NoError(t, rep.Handler()(carrier))
	}
	require.NoError(t, rep.Handler()(message.NewMessage("", []byte("{"))))
	return replicamonitor.New(rep)
}
