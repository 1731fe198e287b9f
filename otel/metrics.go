package otelcqrs

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// Metrics gives the series of monitors (of relay/monitor and replica/monitor, which are
// prometheus.Collectors) to OpenTelemetry: pass it to a reader with sdkmetric.WithProducer. Names,
// labels and buckets are those of docs/metrics.md, so dashboards and alerts are the same either
// way. It is an error to give the same monitor twice.
func Metrics(monitors ...prometheus.Collector) (sdkmetric.Producer, error) {
	registry := prometheus.NewRegistry()
	var errs []error
	for i, m := range monitors {
		if err := registry.Register(m); err != nil {
			errs = append(errs, fmt.Errorf("monitor %d: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("metrics for OpenTelemetry: %w", err)
	}
	return bridge.NewMetricProducer(bridge.WithGatherer(registry)), nil
}
