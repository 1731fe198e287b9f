package replica

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	ledgers "github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Queue is the name of this replica service.
func (r *Replica) Queue() string { return r.config.Queue }

// Now is the time by the replica database's clock.
func (r *Replica) Now(ctx context.Context) (time.Time, error) {
	if r.store == nil {
		return time.Time{}, errors.New("replica: no database, and so no clock of it")
	}
	now, err := r.store.Now(ctx)
	if err != nil {
		return now, fmt.Errorf("replica: %w", err)
	}
	return now, nil
}

func (r *Replica) bindingOf(model string) (*binding, error) {
	if err := r.start(); err != nil {
		return nil, err
	}
	if b := r.models[model]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("replica: model %q is not registered", model)
}

// Kept is what the replica has of one key.
type Kept struct {
	// Key is the text by which ledgers know the key.
	Key string
	// Revision is the ledger's, -1 where it does not know the key; Updated is the master's time of it.
	Revision int64
	Updated  time.Time
	// Applied is when the replica's database wrote that down, by its own clock (see Now); zero where it does not say.
	Applied time.Time
	// Deleted says that the ledger holds a tombstone.
	Deleted bool
	// Present says that the row is there; of a model with a handler, that the ledger has it as live.
	Present bool
	// Row is the row of a mirrored model where it is there: its primary key only, unless whole rows were asked for. Nulls
	// names the columns that are NULL: the Go value of a field that is no pointer does not say.
	Row   reflect.Value
	Nulls map[string]bool
	// Children are the rows of each relation of Shape.Children, in that order, where whole rows were asked for.
	Children [][]ChildRow
}

// ChildRow is a row of a relation.
type ChildRow struct {
	Row   reflect.Value
	Nulls map[string]bool
}

// Lookup returns what the replica has of the given primary keys of the master, in their order, in one snapshot. withRows
// reads whole rows of a mirrored model. A key that no row of the table can have is a *KeyError.
func (r *Replica) Lookup(ctx context.Context, model string, pks []json.RawMessage, withRows bool) ([]Kept, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return nil, err
	}
	kept := make([]Kept, len(pks))
	keys := make([]string, len(pks))
	for i, pk := range pks {
		pk = b.spelledPK(pk)
		if keys[i], err = envelope.KeyOf(pk); err != nil {
			return nil, fmt.Errorf("replica: key %s of model %q: %w", pk, model, err)
		}
		kept[i] = Kept{Key: keys[i], Revision: store.NeverApplied}
	}
	snapshot := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	err = r.store.InBatch(ctx, store.BatchLimits{Options: snapshot}, func(ctx context.Context, tx bun.Tx) error {
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

// lookUpRows says which rows are there. Those of other models in the table are not.
func (m *mirror) lookUpRows(
	ctx context.Context, tx bun.IDB, pks []json.RawMessage, kept []Kept, withRows bool,
) error {
	kinds, err := m.keyKinds(ctx, tx)
	if err != nil {
		return err
	}
	asked := make([]reflect.Value, len(pks))
	for i, pk := range pks {
		if asked[i], err = m.rowOfKey(pk); err != nil {
			return err
		}
		for n, f := range m.table.PKs {
			err := kinds[n].Check(f, asked[i])
			if value := f.Value(asked[i]); err == nil && value.Kind() == reflect.String && kinds[n].IsRespelled(value.String()) {
				err = fmt.Errorf("column %s spells it otherwise", f.Name)
			}
			if err != nil {
				return &KeyError{m.model, string(pk), err}
			}
		}
	}
	foreign := ""
	if m.shares() {
		foreign = m.foreign(m.gen, true)
	}
	find := func(keys []reflect.Value) ([]ChildRow, error) {
		tuples := make([]bun.TupleValues, len(keys))
		for i, row := range keys {
			tuples[i] = bun.Tuple(valuesOf(m.table, row))
		}
		rows := stored.Of(m.table)
		query := m.everyRow(tx.NewSelect().Model(rows.Model())).
			Where("(?) IN (?)", bun.Safe(qualified(m.table)), bun.List(tuples))
		if foreign != "" {
			query = query.Where("(?) IS NOT TRUE", bun.Safe(foreign))
		}
		if !withRows {
			query = query.ColumnExpr("?", bun.Safe(qualified(m.table)))
		}
		if err := query.Scan(ctx, rows); err != nil {
			return nil, err
		}
		return listed(rows), nil
	}
	paired, err := stored.Pair(m.table.PKs, asked, find, func(r ChildRow) reflect.Value { return r.Row })
	if err != nil {
		return err
	}
	for i, row := range paired {
		if kept[i].Present = row != nil; row != nil {
			kept[i].Row, kept[i].Nulls = row.Row, row.Nulls
		}
	}
	if withRows {
		return m.lookUpChildren(ctx, tx, kept)
	}
	return nil
}

func listed(rows *stored.Rows) []ChildRow {
	list := make([]ChildRow, rows.Len())
	for i := range list {
		list[i] = ChildRow{rows.Row(i), rows.Nulls(i)}
	}
	return list
}

// lookUpChildren reads the rows of the relations of the rows that are there.
func (m *mirror) lookUpChildren(ctx context.Context, tx bun.IDB, kept []Kept) error {
	for n, c := range m.children {
		parents := map[string]int{}
		var tuples []bun.TupleValues
		for i := range kept {
			if kept[i].Present {
				kept[i].Children = append(kept[i].Children, nil)
				parents[stored.Identity(c.relation.BasePKs, kept[i].Row)] = i
				tuples = append(tuples, bun.Tuple(values(c.relation.BasePKs, kept[i].Row)))
			}
		}
		join := bun.Safe(columns(string(c.table.SQLAlias)+".", c.relation.JoinPKs))
		for chunk := range slices.Chunk(tuples, mostAsked) {
			rows := stored.Of(c.table)
			query := tx.NewSelect().Model(rows.Model()).Where("(?) IN (?)", join, bun.List(chunk))
			if c.table.SoftDeleteField != nil {
				query = query.WhereAllWithDeleted()
			}
			if err := query.Scan(ctx, rows); err != nil {
				return err
			}
			for _, row := range listed(rows) {
				if i, asked := parents[stored.Identity(c.relation.JoinPKs, row.Row)]; asked {
					kept[i].Children[n] = append(kept[i].Children[n], row)
				}
			}
		}
	}
	return nil
}

// mostAsked is how many rows one statement asks for.
const mostAsked = 1000

// everyRow reads rows that bun takes for deleted too: the mirror knows no soft deletes.
func (b *binding) everyRow(q *bun.SelectQuery) *bun.SelectQuery {
	if b.table.SoftDeleteField != nil {
		q = q.WhereAllWithDeleted()
	}
	return q
}

// LedgerSpeaks says that what the ledger has as live is what the table holds, so that Live can be trusted. false may also
// mean that there is no cheap way to tell.
func (r *Replica) LedgerSpeaks(ctx context.Context, model string) (bool, error) {
	b, err := r.bindingOf(model)
	switch {
	case err != nil:
		return false, err
	case !isMirror(b):
		return true, nil
	case len(b.table.PKs) > 1, len(b.discriminators()) > 0:
		return false, nil
	}
	return r.ledger.SpeaksFor(ctx, r.db, model, string(b.table.SQLName), string(b.table.PKs[0].SQLName))
}

// Span is a part of the ledger in the database's order of texts; an end that is empty is open. AnyOrder does not sort.
type Span struct {
	From, After, To string
	AnyOrder        bool
}

// KeyRevision is a key with its revision.
type KeyRevision = ledgers.KeyRevision

// Live returns up to limit keys that the ledger has as live.
func (r *Replica) Live(ctx context.Context, model string, s Span, limit int) ([]KeyRevision, error) {
	page, err := r.ledger.Live(ctx, r.db, model, ledgers.Range(s), limit)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return page, nil
}

// Pairs are keys with their revisions in the words of a line of a diff, but for its outer brackets: 1,0],[2,5.
type Pairs = ledgers.Pairs

// Pairs is Live for a model whose keys are integers, and cheaper.
func (r *Replica) Pairs(ctx context.Context, model string, s Span, limit int) (Pairs, error) {
	pairs, err := r.ledger.Pairs(ctx, r.db, model, ledgers.Range(s), limit)
	if err != nil {
		return pairs, fmt.Errorf("replica: %w", err)
	}
	return pairs, nil
}

// Known says which keys the ledger has as live.
func (r *Replica) Known(ctx context.Context, model string, keys []string) (map[string]bool, error) {
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

// KeyIsExact says that two texts are two keys in the type of the primary key: not in a number or a time, which has several
// spellings.
func (r *Replica) KeyIsExact(ctx context.Context, model string) (bool, error) {
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

// Keys reads the rows that a mirrored model owns, their primary keys only, page by page in its order. where, if not nil,
// narrows the query, whose model is the registered one.
func (r *Replica) Keys(
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

// Clear deletes the rows that a mirrored model owns, and forgets what the ledger has as live, in one transaction. Tombstones
// stay, so that what was deleted stays so. It is for a load that starts over.
func (r *Replica) Clear(ctx context.Context, model string) error {
	b, err := r.bindingOf(model)
	if err != nil {
		return err
	}
	err = r.store.InBatch(ctx, store.BatchLimits{}, func(ctx context.Context, tx bun.Tx) error {
		err := r.store.ForgetLive(ctx, tx, model)
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

func qualified(table *schema.Table) string { return columns(string(table.SQLAlias)+".", table.PKs) }

func valuesOf(table *schema.Table, row reflect.Value) []any { return values(table.PKs, row) }

func values(fields []*schema.Field, row reflect.Value) []any {
	values := make([]any, len(fields))
	for i, f := range fields {
		values[i] = f.Value(row).Interface()
	}
	return values
}
