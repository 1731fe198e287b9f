package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// receiver takes spans over OTLP, as a collector does.
type receiver struct {
	mu    sync.Mutex
	spans []string // service, span, trace
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	var sent collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &sent)
	}
	if err != nil || request.URL.Path != "/v1/traces" {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range sent.GetResourceSpans() {
		service := ""
		for _, attribute := range from.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				service = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				parent := ""
				if len(span.GetParentSpanId()) > 0 {
					parent = " of it"
				}
				r.spans = append(r.spans, service+": "+span.GetName()+parent)
			}
		}
	}
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.spans))
}

// The stock binary makes spans of the messages of a trace that is sampled, where a collector is
// named by the flag or as everywhere by the environment, and sends the last ones before it ends.
func TestRunAndReplicateSendSpans(t *testing.T) {
	got := &receiver{}
	server := httptest.NewServer(got)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	master, copies, broker := dbtest.SQLiteURL(t), dbtest.SQLiteURL(t), "sqlite://"+filepath.Join(t.TempDir(), "broker.db")
	config := filepath.Join(t.TempDir(), "stats.yaml")
	require.NoError(t, os.WriteFile(config, []byte("queue: stats\nmodels:\n  order:\n    table: orders\n"), 0o600))
	_, err := dbtest.Open(t, copies).ExecContext(t.Context(), "CREATE TABLE orders (id integer NOT NULL PRIMARY KEY)")
	require.NoError(t, err)
	require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", master).code)
	running(t, "replicate", "--migrate", "--db", copies, "--broker", broker, "--config", config, "--silent")
	require.Eventually(t, func() bool { // else a first try to publish finds no queue, and is a span, too
		return strings.Contains(invoke(t.Context(), "queues", "list", "--broker", broker).stdout, "order")
	}, patience, 20*time.Millisecond)
	running(t, "run", "--db", master, "--broker", broker, "--traces", server.URL, "--silent")
	s, err := mastertest.New(dbtest.Open(t, master))
	require.NoError(t, err)
	for key, sampled := range map[string]string{"1": "01", "2": "00"} {
		require.NoError(t, s.Append(t.Context(), s.DB(), []queue.Message{{
			Model: "order", Key: key, Signal: "SAVE", PK: json.RawMessage(key), Data: json.RawMessage(`{"id":` + key + `}`),
			Updated: time.Now(), Headers: map[string]string{
				"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-" + sampled,
			},
		}}, nil))
	}
	want := []string{"cqrsync-relay: publish order of it", "cqrsync-replica: process stats of it"}
	require.Eventually(t, func() bool { return len(got.got()) >= len(want) }, patience, 20*time.Millisecond)
	require.Equal(t, want, got.got())
}

// A collector that is away costs spans and no message, and one that cannot be meant is refused.
func TestTracesThatCannotBeSent(t *testing.T) {
	for _, url := range []string{"127.0.0.1:4318", "grpc://host:4317", "http://"} {
		r := invoke(t.Context(), "run", "--db", dbtest.SQLiteURL(t), "--broker", "sqlite://x", "--traces", url)
		require.Equal(t, exit.Usage, r.code)
		require.Contains(t, r.stderr, "not a URL of a collector, want http://HOST:4318")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	r := invoke(t.Context(), "run", "--db", dbtest.SQLiteURL(t), "--broker", "sqlite://x")
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc", and spans are sent by http/protobuf only`)
}
