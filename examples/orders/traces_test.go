package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traced is the spans that came over OTLP, by trace.
type traced struct {
	mu     sync.Mutex
	traces map[string][]string
}

func (r *traced) ServeHTTP(w http.ResponseWriter, request *http.Request) {
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
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				id := string(span.GetTraceId())
				r.traces[id] = append(r.traces[id], span.GetName())
			}
		}
	}
}

// With --traces one trace shows the way of an order, from the request to the webhook.
func TestTheExampleTracesAnOrder(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms, the exporter's
	got := &traced{traces: map[string][]string{}}
	server := httptest.NewServer(got)
	t.Cleanup(server.Close)
	urls := start(t, "--dir", t.TempDir(), "--traces", server.URL)
	status, answer := call(t, http.MethodPost, urls["webhooks"]+"/subscriptions", `{"url": "`+urls["inbox"]+`/inbox"}`)
	require.Equal(t, http.StatusCreated, status, answer)
	status, answer = call(t, http.MethodPost, urls["orders"]+"/orders",
		`{"customer": "Ada", "lines": [{"sku": "book", "quantity": 2, "price": 1250}]}`)
	require.Equal(t, http.StatusCreated, status, answer)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got.mu.Lock()
		defer got.mu.Unlock()
		require.Len(c, got.traces, 1)
		for _, names := range got.traces {
			for _, want := range []string{
				"POST /orders", "transaction", "publish order", "process webhooks", "process stats", "handle order", "webhook",
			} {
				require.Contains(c, names, want)
			}
		}
	}, time.Minute, 20*time.Millisecond)
}
