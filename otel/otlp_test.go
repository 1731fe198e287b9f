package otelcqrs_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/outbox"
)

// receiver takes what an exporter sends over OTLP, as a collector does.
type receiver struct {
	mu    sync.Mutex
	names []string
	scope string
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
	for _, resource := range sent.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.scope = scope.GetScope().GetName()
			for _, span := range scope.GetSpans() {
				r.names = append(r.names, span.GetName())
			}
		}
	}
}

func TestSpansReachACollectorOverOTLP(t *testing.T) {
	got := &receiver{}
	server := httptest.NewServer(got)
	defer server.Close()
	exporter, err := otlptracehttp.New(t.Context(),
		otlptracehttp.WithEndpointURL(server.URL+"/v1/traces"))
	require.NoError(t, err)
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	tracing := otelcqrs.New(otelcqrs.Config{TracerProvider: provider})
	box, err := outbox.New(dbtest.Open(t, dbtest.SQLiteURL(t)), outbox.Config{
		Trace: tracing.Transaction, Headers: tracing.Headers,
	})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	require.NoError(t, box.RunInTx(t.Context(), nil,
		func(context.Context, bun.Tx) error { return nil }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, provider.Shutdown(ctx))
	got.mu.Lock()
	defer got.mu.Unlock()
	require.Equal(t, []string{"transaction"}, got.names)
	require.Equal(t, "github.com/cqrsync/cqrsync/otel", got.scope)
}
