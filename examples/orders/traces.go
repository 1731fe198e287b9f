package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
)

// traces are the spans of this process: of each request to Orders, of what cqrsync makes of it, and
// of the webhook that tells of it.
type traces struct {
	cqrs   *otelcqrs.Tracing
	tracer trace.Tracer
}

// w3c reads and writes the headers traceparent and tracestate.
var w3c propagation.TraceContext

// openTraces sends spans to the collector of --traces. Without one there are no traces.
func (p *process) openTraces(ctx context.Context) error {
	if p.tracesURL == "" {
		return nil
	}
	u, err := url.Parse(p.tracesURL)
	if err != nil || u.Host == "" {
		return errors.New("--traces: not a URL of a collector, want http://127.0.0.1:4318")
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(u.JoinPath("v1/traces").String()))
	if err != nil {
		return fmt.Errorf("--traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "orders"))))
	p.closes = append(p.closes, func() error { // the last spans, when all else has ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return provider.Shutdown(ctx)
	})
	p.traces = &traces{
		cqrs:   otelcqrs.New(otelcqrs.Config{TracerProvider: provider}),
		tracer: provider.Tracer("orders"),
	}
	return nil
}

// serveOrders serves Orders, each request with a span where there are traces.
func (p *process) serveOrders(
	service *orders.Service,
) func(context.Context, net.Listener) error {
	if p.traces == nil {
		return service.Serve
	}
	return func(ctx context.Context, listener net.Listener) error {
		return web.Serve(ctx, listener, p.traces.served(service.Handler()))
	}
}

// served gives each request a span. A service of one's own takes otelhttp for it.
func (t *traces) served(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, r.Method+" "+r.URL.Path,
			trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// posting gives each webhook a span in the trace of the change that it tells of.
func (t *traces) posting(inner http.RoundTripper) http.RoundTripper { return poster{t, inner} }

type poster struct {
	*traces
	http.RoundTripper
}

// CloseIdleConnections lets Webhooks end without leaving connections behind.
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
