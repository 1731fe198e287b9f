package otelcqrs_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/open"
)

// shop is two services of the orders example and a relay, each traced, with a subscriber of the
// webhooks.
type shop struct {
	spans  *tracetest.InMemoryExporter
	tracer trace.Tracer
	orders *httptest.Server
	queue  string
	heard  chan string // the header traceparent of the posts that arrived
}

var w3c propagation.TraceContext

func openShop(t *testing.T, ordersURL, hooksURL, broker, queue string) *shop {
	t.Helper()
	s := &shop{spans: tracetest.NewInMemoryExporter(), heard: make(chan string, 100), queue: queue}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(s.spans))
	s.tracer = provider.Tracer("test")
	tracing := otelcqrs.New(otelcqrs.Config{TracerProvider: provider, System: "rabbitmq"})
	db := dbtest.Open(t, ordersURL)
	service, err := orders.New(t.Context(), db, orders.Config{
		Outbox: outbox.Config{Trace: tracing.Transaction, Headers: tracing.Headers},
	})
	require.NoError(t, err)
	s.orders = httptest.NewServer(s.served(service.Handler()))
	t.Cleanup(s.orders.Close)
	inbox := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.heard <- r.Header.Get("Traceparent")
	}))
	t.Cleanup(inbox.Close)
	address, err := url.Parse(inbox.URL)
	require.NoError(t, err)
	port, err := strconv.Atoi(address.Port())
	require.NoError(t, err)
	hooks, err := webhooks.New(t.Context(), dbtest.Open(t, hooksURL), queue, webhooks.Config{
		Tracer: tracing, Transport: s.posting, Poll: 10 * time.Millisecond,
		Targets: webhooks.Targets{
			Ports: []int{port}, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		},
	})
	require.NoError(t, err)
	subscriber, err := open.Subscriber(broker, queue, open.Options{})
	require.NoError(t, err)
	publisher, err := open.Publisher(broker, open.Options{})
	require.NoError(t, err)
	rel, err := relay.New(db, tracing.Publisher(publisher), relay.Config{
		Handover: service.Box().Handover(), Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	background(t, func(ctx context.Context) error { return hooks.Replicate(ctx, subscriber) },
		func() { require.NoError(t, subscriber.Close()) })
	background(t, hooks.Deliver, func() {})
	select {
	case <-hooks.Running():
	case <-time.After(time.Minute):
		require.Fail(t, "the replica does not run")
	}
	background(t, rel.Run, func() { require.NoError(t, publisher.Close()) })
	body, err := json.Marshal(map[string]string{"url": inbox.URL})
	require.NoError(t, err)
	answer := httptest.NewRecorder()
	hooks.Handler().ServeHTTP(answer,
		httptest.NewRequest(http.MethodPost, "/subscriptions", strings.NewReader(string(body))))
	require.Equal(t, http.StatusCreated, answer.Code, answer.Body)
	return s
}

// background runs a service until the test ends.
func background(t *testing.T, run func(context.Context) error, after func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		after()
	})
}

// served gives each request a span, as otelhttp does.
func (s *shop) served(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := s.tracer.Start(ctx, r.Method+" "+r.URL.Path,
			trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// posting gives each post a span in the trace of the change that it tells of.
func (s *shop) posting(inner http.RoundTripper) http.RoundTripper { return poster{s, inner} }

type poster struct {
	*shop
	http.RoundTripper
}

func (p poster) CloseIdleConnections() {
	if c, can := p.RoundTripper.(interface{ CloseIdleConnections() }); can {
		c.CloseIdleConnections()
	}
}

func (p poster) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := p.tracer.Start(ctx, "webhook", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	r = r.Clone(ctx)
	w3c.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return p.RoundTripper.RoundTrip(r)
}
