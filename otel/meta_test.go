package otelcqrs_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/outbox"
)

type article struct {
	outbox.Tracked
	ID    int64 `bun:",pk"`
	Title string
}

// Django shows its replicas the body of a message only. What has the trace there, and passes it on
// there, continues it.
func TestATraceGoesThroughWhatKnowsNoHeaders(t *testing.T) {
	tracing, spans := newTracing()
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	box, err := outbox.New(db, outbox.Config{Trace: tracing.Transaction})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[article](box, "article", outbox.Meta(tracing.Meta)))
	require.NoError(t, box.Migrate(t.Context()))
	_, err = db.NewCreateTable().Model((*article)(nil)).Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&article{ID: 1, Title: "a"}).Exec(ctx)
		return err
	}))
	var meta string
	require.NoError(t, db.NewRaw("SELECT meta FROM outbox_messages").Scan(t.Context(), &meta))
	made := spans.GetSpans()[0].SpanContext

	spans.Reset()
	received := &envelope.Message{Model: "article", Meta: json.RawMessage(meta)}
	_, end := tracing.Apply(t.Context(), "q", slices.Values([]*envelope.Message{received}))
	end(nil)
	require.Len(t, spans.GetSpans(), 1)
	require.Equal(t, made.TraceID(), spans.GetSpans()[0].SpanContext.TraceID())
	require.Equal(t, made.SpanID(), spans.GetSpans()[0].Parent.SpanID())

	spans.Reset()
	for _, meta := range []string{"[]", `"x"`, "{", `{"traceparent": 7}`, `{"traceparent": null}`} {
		received.Meta = json.RawMessage(meta)
		_, end := tracing.Apply(t.Context(), "q", slices.Values([]*envelope.Message{received}))
		end(nil)
	}
	require.Empty(t, spans.GetSpans())
	require.Nil(t, otelcqrs.New(otelcqrs.Config{}).Meta(t.Context()), "no span, no meta")
}
