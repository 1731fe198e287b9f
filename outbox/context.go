package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

type (
	correlationKey struct{}
	metaKey        struct{}
	headersKey     struct{}
)

// WithCorrelationID sets the correlation id of the messages of a transaction. Pass the context to [Box.RunInTx].
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// WithHeaders adds to the headers of the messages of a transaction: what travels beside the body, as traceparent does.
// Pass the context to [Box.RunInTx]. [Config].Headers does it for every transaction. Names that begin with "cqrs_" are
// cqrsync's own and are refused.
func WithHeaders(ctx context.Context, headers map[string]string) context.Context {
	return context.WithValue(ctx, headersKey{}, merged(headersOf(ctx), headers))
}

func headersOf(ctx context.Context) map[string]string {
	headers, _ := ctx.Value(headersKey{}).(map[string]string)
	return headers
}

// headers are those of a transaction's messages, nil for none.
func (b *Box) headers(ctx context.Context) (map[string]string, error) {
	headers := headersOf(ctx)
	if b.contextHeaders != nil {
		headers = merged(b.contextHeaders(ctx), headers)
	}
	for name := range headers {
		if name == "" || strings.HasPrefix(strings.ToLower(name), "cqrs_") {
			return nil, fmt.Errorf("header %q: names that are empty or begin with cqrs_ are cqrsync's own", name)
		}
	}
	if len(headers) == 0 {
		return nil, nil
	}
	return headers, nil
}

// WithMeta adds to the meta of the messages of a transaction. Pass the context to [Box.RunInTx].
func WithMeta(ctx context.Context, meta map[string]any) context.Context {
	return context.WithValue(ctx, metaKey{}, merged(metaOf(ctx), meta))
}

func metaOf(ctx context.Context) map[string]any {
	meta, _ := ctx.Value(metaKey{}).(map[string]any)
	return meta
}

func correlationOf(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

func merged[T any](first, wins map[string]T) map[string]T {
	all := make(map[string]T, len(first)+len(wins))
	maps.Copy(all, first)
	maps.Copy(all, wins)
	return all
}

// metaJSON is the meta of a model's messages, nil for none.
func (m *model) metaJSON(ctx context.Context) (json.RawMessage, error) {
	meta := metaOf(ctx)
	if m.meta != nil {
		meta = merged(m.meta(ctx), meta)
	}
	if len(meta) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	return text, nil
}
