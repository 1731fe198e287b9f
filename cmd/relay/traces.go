package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	otelcqrs "github.com/cqrsync/cqrsync/otel"
)

// otlpVariables are those by which any program is told where traces go.
var otlpVariables = []string{
	"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT",
}

var tracesSetting = setting{"--traces", strings.Join(otlpVariables, ", ")}

func (o *options) tracesFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "traces", Destination: &o.traces,
		Usage: "the `URL` of an OpenTelemetry collector, as http://127.0.0.1:4318, for spans of what " +
			"belongs to a trace; by default that of " + otlpVariables[1] + ", else none",
	}
}

// shutTracing bounds how long the last spans may take when all else has ended.
const shutTracing = 5 * time.Second

// openTracing makes spans of messages in traces that are sampled, nil where nobody wants them. The
// last ones are sent by close. A collector that is away costs spans, and never a message.
func (o *options) openTracing(
	ctx context.Context, service string, log *slog.Logger,
) (*otelcqrs.Tracing, error) {
	options, wanted, err := o.exporterOptions()
	if err != nil || !wanted {
		return nil, tracesSetting.wrong(err)
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, tracesSetting.wrong(err)
	}
	named, err := resource.Merge(
		resource.NewSchemaless(attribute.String("service.name", service)), resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	if log != nil {
		otel.SetErrorHandler(&lostSpans{log: log})
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(named))
	o.closers = append(o.closers, closing(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutTracing)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			otel.Handle(err)
		}
		return nil
	}))
	return otelcqrs.New(otelcqrs.Config{TracerProvider: provider, System: systemOf(o.broker)}), nil
}

// exporterOptions are what --traces says, over what the environment says.
func (o *options) exporterOptions() (options []otlptracehttp.Option, wanted bool, err error) {
	if o.traces != "" {
		u, err := url.Parse(o.traces)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, false, errors.New("not a URL of a collector, want http://HOST:4318")
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/v1/traces"
		}
		return []otlptracehttp.Option{otlptracehttp.WithEndpointURL(u.String())}, true, nil
	}
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") ||
		os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, false, nil
	}
	for _, name := range otlpVariables {
		wanted = wanted || os.Getenv(name) != ""
	}
	for _, name := range []string{
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL",
	} {
		if protocol := os.Getenv(name); wanted && protocol != "" && protocol != "http/protobuf" {
			return nil, false, fmt.Errorf("%s is %q, and spans are sent by http/protobuf only: give "+
				"the collector's port for that, and unset it", name, protocol)
		}
	}
	return nil, wanted, nil
}

// systemOf is how OpenTelemetry names a broker.
func systemOf(broker string) string {
	switch scheme, _, _ := strings.Cut(broker, ":"); scheme {
	case "amqp", "amqps":
		return "rabbitmq"
	case "kafkas":
		return "kafka"
	case "rediss":
		return "redis"
	default:
		return scheme
	}
}

// lostSpans says that spans are lost, once a minute at most: a collector may be away for long.
type lostSpans struct {
	log  *slog.Logger
	mu   sync.Mutex
	said time.Time
}

// Handle implements otel.ErrorHandler.
func (l *lostSpans) Handle(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.said) < time.Minute {
		return
	}
	l.said = time.Now()
	l.log.Warn("spans are lost, all else goes on", "error", err)
}

// closing closes something by a function.
type closing func() error

func (c closing) Close() error { return c() }
