package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
)

type (
	correlationKey struct{}
	metaKey        struct{}
)

// WithCorrelationID sets the correlation id of the messages of a transaction. Pass the context to [Box.RunInTx].
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
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

func merged(first, wins map[string]any) map[string]any {
	all := make(map[string]any, len(first)+len(wins))
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
