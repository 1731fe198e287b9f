//go:build unix

package django

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

type (
	ticket struct {
		bun.BaseModel `bun:"table:tickets"`
		outbox.Tracked
		ID   int64 `bun:",pk"`
		Text string
	}
	answerCopy struct {
		bun.BaseModel `bun:"table:answers"`
		ID            int64 `bun:",pk"`
		Text          string
	}
)

const between = "between" // a Django worker that is a master, too

// A trace goes from a Go master through a Django service, which makes something else of what it
// hears, to a Go replica: in the body, because django-cqrs shows nobody the headers.
func TestATraceGoesThroughDjango(t *testing.T) {
	d := deploy(t)
	d.databases[between] = dbtest.PostgresURL(t)
	t.Cleanup(func() { d.clearBroker(between, gopher) })
	spans := tracetest.NewInMemoryExporter()
	tracing := otelcqrs.New(otelcqrs.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)),
	})
	d.tracedReplica(tracing)
	d.migrate(between, between)
	start(t, "cqrs_consume of "+between, d.manage(context.WithoutCancel(t.Context()), "cqrs_consume"),
		d.variables(between, between)...)
	d.awaitConsumer(between, 1)
	d.awaitConsumer(gopher, 1)

	box := d.tracedMaster(tracing)
	require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&ticket{ID: 1, Text: "the lamp"}).Exec(ctx)
		return err
	}))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		traces := map[string]string{}
		for _, span := range spans.GetSpans() {
			name, _, _ := strings.Cut(span.Name, " ")
			traces[name] = span.SpanContext.TraceID().String()
		}
		assert.NotEmpty(c, traces["process"])
		assert.Equal(c, traces["transaction"], traces["process"])
		assert.Equal(c, traces["transaction"], traces["publish"])
	}, time.Minute, 20*time.Millisecond)
}

func (d deployment) tracedMaster(tracing *otelcqrs.Tracing) *outbox.Box {
	d.Helper()
	db := dbtest.Open(d, dbtest.SQLiteURL(d))
	box, err := outbox.New(db, outbox.Config{
		Trace: tracing.Transaction, Headers: tracing.Headers,
	})
	require.NoError(d, err)
	require.NoError(d, outbox.Register[ticket](box, "ticket", outbox.Meta(tracing.Meta)))
	require.NoError(d, box.Migrate(d.Context()))
	_, err = db.NewCreateTable().Model((*ticket)(nil)).Exec(d.Context())
	require.NoError(d, err)
	publisher, err := open.Publisher(d.brokerURL(), open.Options{})
	require.NoError(d, err)
	rel, err := relay.New(db, tracing.Publisher(publisher), relay.Config{
		Wake: box.Wake(), Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(d, err)
	d.background(rel.Run, publisher.Close)
	return box
}

// tracedReplica keeps what the service between says.
func (d deployment) tracedReplica(tracing *otelcqrs.Tracing) {
	d.Helper()
	db := dbtest.Open(d, dbtest.SQLiteURL(d))
	_, err := db.NewCreateTable().Model((*answerCopy)(nil)).Exec(d.Context())
	require.NoError(d, err)
	rep, err := replica.New(db, replica.Config{
		Queue: d.queue(gopher), Tracer: tracing, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(d, err)
	require.NoError(d, replica.Register[answerCopy](rep, "answer"))
	require.NoError(d, rep.Migrate(d.Context()))
	subscriber, err := open.Subscriber(d.brokerURL(), d.queue(gopher), open.Options{})
	require.NoError(d, err)
	d.background(func(ctx context.Context) error { return rep.Run(ctx, subscriber) }, subscriber.Close)
}
