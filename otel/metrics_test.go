package otelcqrs_test

import (
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/replica/monitor"
)

func TestMetricsOfAMonitorReachOpenTelemetry(t *testing.T) {
	rep, err := replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Queue: "stats"})
	require.NoError(t, err)
	require.NoError(t, replica.HandleFunc(rep, "article",
		func(context.Context, replica.Event[article]) error { return nil }))
	require.NoError(t, rep.Migrate(t.Context()))
	require.NoError(t, rep.Handler()(message.NewMessage("", []byte("{"))))
	watching := monitor.New(rep)
	producer, err := otelcqrs.Metrics(watching)
	require.NoError(t, err)
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(producer))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer func() { require.NoError(t, provider.Shutdown(t.Context())) }()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	points := map[string]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, is := m.Data.(metricdata.Sum[float64])
			if !is {
				continue
			}
			for _, point := range sum.DataPoints {
				outcome, _ := point.Attributes.Value("outcome")
				points[m.Name+" "+outcome.AsString()] = point.Value
			}
		}
	}
	require.InDelta(t, 1, points["cqrsync_replica_messages_total dead_letter"], 0)

	_, err = otelcqrs.Metrics(watching, watching)
	require.ErrorContains(t, err, "monitor 1: duplicate")
}
