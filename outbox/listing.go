package outbox

import (
	"context"
	"iter"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Listing reads which revisions a model has from the ledger alone; it is nil where the ledger does
// not speak for the table.
func (b operated) Listing(
	ctx context.Context, model string, pageSize int,
) (iter.Seq2[boxed.Pairs, error], error) {
	m, err := b.modelOfID(model)
	if err != nil || len(m.table.PKs) > 1 || m.filters() {
		return nil, err
	}
	speaks, err := b.ledger.SpeaksFor(
		ctx, b.db, model, string(m.table.SQLName), string(m.table.PKs[0].SQLName))
	if err != nil || !speaks {
		return nil, err
	}
	return func(yield func(boxed.Pairs, error) bool) {
		last := ""
		for {
			var page boxed.Pairs
			page, last, err = b.listed(ctx, m, last, pageSize)
			if err != nil || page.Count > 0 {
				if !yield(page, err) || err != nil {
					return
				}
			}
			if page.Count < pageSize {
				return
			}
		}
	}, nil
}

// listed is the page after a key, and its last key.
func (b operated) listed(
	ctx context.Context, m *model, after string, limit int,
) (page boxed.Pairs, last string, err error) {
	r := ledger.Range{After: after}
	if stored.HasIntegerKeys(m.table.PKs) {
		page, err = b.ledger.Pairs(ctx, b.db, m.id, r, limit)
		return page, page.Last(), err
	}
	live, err := b.ledger.Live(ctx, b.db, m.id, r, limit)
	for i := range live {
		last = live[i].Key
		live[i].Key = string(stored.KeyJSON(m.table.PKs, last))
	}
	return ledger.JoinPairs(live), last, err
}
