package replica

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

func init() {
	//nolint:forcetypeassert // it says so
	mirrored.Of = func(rep any) mirrored.Replica { return inspected{rep.(*Replica)} }
}

// inspected is a replica as package operate sees it (internal/mirrored).
type inspected struct{ *Replica }

// Lookup returns what the replica has of the given primary keys of the master, in their order, in
// one snapshot. withRows reads whole rows of a mirrored model. A key that no row of the table can
// have is a *keyError.
func (r inspected) Lookup(
	ctx context.Context, model string, pks []json.RawMessage, withRows bool,
) ([]mirrored.Kept, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return nil, err
	}
	kept := make([]mirrored.Kept, len(pks))
	keys := make([]string, len(pks))
	for i, pk := range pks {
		pk = b.spelledPK(pk)
		if keys[i], err = envelope.KeyOf(pk); err != nil {
			return nil, fmt.Errorf("replica: key %s of model %q: %w", pk, model, err)
		}
		kept[i] = mirrored.Kept{Key: keys[i], Revision: applied.NeverApplied}
	}
	snapshot := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	err = r.tables.InBatch(ctx, db.BatchLimits{Options: snapshot},
		func(ctx context.Context, tx bun.Tx) error {
			known, err := r.ledger.Known(ctx, tx, model, keys)
			if err != nil {
				return err
			}
			for i := range kept {
				if k, found := known[keys[i]]; found {
					kept[i].Revision, kept[i].Updated, kept[i].Deleted = k.Revision, k.Updated, k.Deleted
					kept[i].Applied = k.Applied
					kept[i].Present = !k.Deleted
				}
			}
			if m, is := b.mirror(); is {
				return m.lookUpRows(ctx, tx, pks, kept, withRows)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("replica: look up %d keys of model %q: %w", len(pks), model, err)
	}
	return kept, nil
}

// LedgerSpeaks says that what the ledger has as live is what the table holds, so that Live can be
// trusted. false may also mean that there is no cheap way to tell.
func (r inspected) LedgerSpeaks(ctx context.Context, model string) (bool, error) {
	b, err := r.bindingOf(model)
	switch {
	case err != nil:
		return false, err
	case !isMirror(b):
		return true, nil
	case len(b.table.PKs) > 1, len(b.discriminators()) > 0:
		return false, nil
	}
	return r.ledger.SpeaksFor(ctx, r.db, model, string(b.table.SQLName),
		string(b.table.PKs[0].SQLName))
}

// Live returns up to limit keys that the ledger has as live.
func (r inspected) Live(
	ctx context.Context, model string, s mirrored.Span, limit int,
) ([]mirrored.KeyRevision, error) {
	page, err := r.ledger.Live(ctx, r.db, model, s, limit)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return page, nil
}

// Pairs is Live for a model whose keys are integers, and cheaper.
func (r inspected) Pairs(
	ctx context.Context, model string, s mirrored.Span, limit int,
) (mirrored.Pairs, error) {
	pairs, err := r.ledger.Pairs(ctx, r.db, model, s, limit)
	if err != nil {
		return pairs, fmt.Errorf("replica: %w", err)
	}
	return pairs, nil
}

// Known says which keys the ledger has as live.
func (r inspected) Known(
	ctx context.Context, model string, keys []string,
) (map[string]bool, error) {
	known, err := r.ledger.Known(ctx, r.db, model, keys)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	live := make(map[string]bool, len(known))
	for key, k := range known {
		live[key] = !k.Deleted
	}
	return live, nil
}

// KeyIsExact says that two texts are two keys in the type of the primary key: not in a number or a
// time, which has several spellings.
func (r inspected) KeyIsExact(ctx context.Context, model string) (bool, error) {
	b, err := r.bindingOf(model)
	if err != nil || !isMirror(b) {
		return true, err
	}
	kinds, err := b.keyKinds(ctx, r.db)
	for _, kind := range kinds {
		if !kind.Exact() {
			return false, err
		}
	}
	return true, err
}

// Keys reads the rows that a mirrored model owns, their primary keys only, page by page in its
// order. where, if not nil, narrows the query, whose model is the registered one.
func (r inspected) Keys(
	ctx context.Context, model string, where func(*bun.SelectQuery) *bun.SelectQuery, pageSize int,
) iter.Seq2[[]reflect.Value, error] {
	return func(yield func([]reflect.Value, error) bool) {
		b, err := r.bindingOf(model)
		if err != nil {
			yield(nil, err)
			return
		}
		var last reflect.Value
		for {
			rows := reflect.New(reflect.SliceOf(b.table.Type))
			columns := bun.Safe(qualified(b.table))
			query := b.everyRow(r.db.NewSelect().Model(rows.Interface())).ColumnExpr("?", columns)
			if owned := b.owned(r.db.QueryGen(), string(b.table.SQLAlias)+"."); owned != "" {
				query = query.Where("?", bun.Safe(owned))
			}
			if where != nil {
				query = where(query)
			}
			if last.IsValid() {
				query = query.Where("(?) > (?)", columns, bun.List(valuesOf(b.table, last)))
			}
			if err := query.OrderExpr("?", columns).Limit(int64(pageSize)).Scan(ctx); err != nil {
				yield(nil, fmt.Errorf("replica: read the keys of model %q: %w", model, err))
				return
			}
			page := make([]reflect.Value, rows.Elem().Len())
			for i := range page {
				page[i] = rows.Elem().Index(i)
			}
			if len(page) > 0 && !yield(page, nil) || len(page) < pageSize {
				return
			}
			last = page[len(page)-1]
		}
	}
}

// Clear deletes the rows that a mirrored model owns, and forgets what the ledger has as live, in
// one transaction. Tombstones stay, so that what was deleted stays so. It is for a load that starts
// over.
func (r inspected) Clear(ctx context.Context, model string) error {
	b, err := r.bindingOf(model)
	if err != nil {
		return err
	}
	err = r.tables.InBatch(ctx, db.BatchLimits{}, func(ctx context.Context, tx bun.Tx) error {
		err := r.tables.ForgetLive(ctx, tx, model)
		if m, is := b.mirror(); is && err == nil {
			err = m.clear(ctx, tx)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("replica: clear model %q: %w", model, err)
	}
	return nil
}
