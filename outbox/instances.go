package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/stored"
)

const defaultPage = 1000

func (b *Box) modelOfID(id string) (*model, error) {
	if err := b.registrations(); err != nil {
		return nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if m := b.byID[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("outbox: model %q is not registered, want one of %s",
		id, strings.Join(slices.Sorted(maps.Keys(b.byID)), ", "))
}

// Instances reads the instances of a model with their state.
func (b operated) Instances(
	ctx context.Context, model string, s boxed.Selection,
) iter.Seq2[[]boxed.Instance, error] {
	return b.pages(ctx, model, s, true)
}

// Revisions is Instances without Data and Updated, and faster.
func (b operated) Revisions(
	ctx context.Context, model string, s boxed.Selection,
) iter.Seq2[[]boxed.Instance, error] {
	return b.pages(ctx, model, s, false)
}

// selectRows reads whole rows with their relations, or primary keys only. cut says that there were
// more rows than are held at once.
func (m *model) selectRows(
	ctx context.Context, tx bun.IDB, whole bool, narrow func(*bun.SelectQuery) *bun.SelectQuery,
) (records []record, cut bool, err error) {
	if whole {
		return m.scanWhole(ctx, tx, narrow, unlocked, pageBytes)
	}
	rows := stored.Of(m.table)
	query := narrow(tx.NewSelect().Model(rows.Model()))
	records, err = scan(ctx, query.ColumnExpr("?", keyColumns(m.table)), rows)
	return records, false, err
}

func unlocked(q *bun.SelectQuery) *bun.SelectQuery { return q }

// unwritten is the time of a row that no captured transaction has written. Any real one is later.
var unwritten = time.Unix(0, 0).UTC()

// instances joins rows with their ledger rows.
func (b *Box) instances(
	ctx context.Context, tx bun.IDB, m *model, rows []record, withData bool,
) ([]boxed.Instance, error) {
	changes := make([]change, 0, len(rows))
	keys := make([]string, 0, len(rows))
	for _, row := range rows {
		if !m.sends(row) {
			continue
		}
		pk, key, _, err := m.keyOf(row)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		changes = append(changes, change{mark: &mark{key: key, pk: pk}, row: row, outcome: saved})
	}
	known, err := b.ledger.Known(ctx, tx, m.id, keys)
	if err != nil {
		return nil, err
	}
	states := make([]json.RawMessage, len(changes))
	if withData {
		if states, err = m.states(ctx, tx, changes); err != nil {
			return nil, err
		}
	}
	instances := make([]boxed.Instance, len(changes))
	for i, c := range changes {
		k, found := known[c.mark.key]
		if !found {
			k.Updated = unwritten
		}
		instances[i] = boxed.Instance{PK: c.mark.pk, Key: c.mark.key, Revision: k.Revision,
			Updated: k.Updated, Buried: k.Deleted, Data: states[i]}
	}
	return instances, nil
}
