package replica

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
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

// Shape is how a model is kept.
type Shape struct {
	// Table is the bun table of the registered type.
	Table *schema.Table
	// Mirrored says that the rows are kept in Table; else a handler does what it likes, and the ledger is all there is.
	Mirrored bool
	// Fields is what the master calls each column. Constant and computed ones are not among them.
	Fields map[string]string
}

// Model returns how a registered model is kept.
func (r *Replica) Model(model string) (Shape, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return Shape{}, err
	}
	shape := Shape{Table: b.table, Mirrored: b.mirror != nil, Fields: make(map[string]string, len(b.table.Fields))}
	for _, f := range b.table.Fields {
		if _, own := b.fixed[f.Name]; !own {
			shape.Fields[f.Name] = b.fieldName(f.Name)
		}
	}
	return shape, nil
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
	// Row is the row, where it was asked for and is there. Nulls names its columns that are NULL:
	// the Go value of a field that is no pointer does not say.
	Row   reflect.Value
	Nulls map[string]bool
}

// Lookup returns what the replica has of the given primary keys, in their order, in one snapshot. withRows reads the
// rows of a mirrored model as well.
func (r *Replica) Lookup(ctx context.Context, model string, pks []json.RawMessage, withRows bool) ([]Kept, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return nil, err
	}
	kept := make([]Kept, len(pks))
	keys := make([]string, len(pks))
	for i, pk := range pks {
		if keys[i], err = envelope.KeyOf(pk); err != nil {
			return nil, fmt.Errorf("replica: key %s of model %q: %w", pk, model, err)
		}
		kept[i] = Kept{Key: keys[i], Revision: store.NeverApplied}
	}
	snapshot := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	err = r.db.RunInTx(ctx, snapshot, func(ctx context.Context, tx bun.Tx) error {
		known, err := r.store.Known(ctx, tx, store.Replica, model, keys)
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
		if b.mirror == nil {
			return nil
		}
		return b.lookUpRows(ctx, tx, pks, kept, withRows)
	})
	if err != nil {
		return nil, fmt.Errorf("replica: look up %d keys of model %q: %w", len(pks), model, err)
	}
	return kept, nil
}

// lookUpRows says which rows are there.
func (b *binding) lookUpRows(
	ctx context.Context, tx bun.IDB, pks []json.RawMessage, kept []Kept, withRows bool,
) error {
	at := make(map[string]int, len(pks))
	tuples := make([]bun.TupleValues, 0, len(pks))
	for i, pk := range pks {
		row := reflect.New(b.table.Type).Elem()
		kept[i].Present = false
		if err := b.decodeKey(row, b.table.PKs, map[string]json.RawMessage{"id": pk}); err != nil {
			continue // a key that no row of this table can have
		}
		at[identity(b.table, row)] = i
		tuples = append(tuples, bun.Tuple(valuesOf(b.table, row)))
	}
	const most = 1000 // rows that one statement asks for
	for start := 0; start < len(tuples); start += most {
		rows := stored.Of(b.table)
		query := b.everyRow(tx.NewSelect().Model(rows.Model())).
			Where("(?) IN (?)", bun.Safe(qualified(b.table)), bun.List(tuples[start:min(start+most, len(tuples))]))
		if !withRows {
			query = query.ColumnExpr("?", bun.Safe(qualified(b.table)))
		}
		if err := query.Scan(ctx, rows); err != nil {
			return err
		}
		for i := range rows.Len() {
			row := rows.Row(i)
			if n, asked := at[identity(b.table, row)]; asked {
				kept[n].Present = true
				if withRows {
					kept[n].Row, kept[n].Nulls = row, rows.Nulls(i)
				}
			}
		}
	}
	return nil
}

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
	case b.mirror == nil:
		return true, nil
	case len(b.table.PKs) > 1:
		return false, nil
	}
	return r.store.LedgerSpeaksFor(ctx, r.db, store.Replica, model, string(b.table.SQLName), string(b.table.PKs[0].SQLName))
}

// Span is a part of the ledger in the database's order of texts; an end that is empty is open. AnyOrder does not sort.
type Span struct {
	From, After, To string
	AnyOrder        bool
}

// KeyRevision is a key with its revision.
type KeyRevision = store.KeyRevision

// Live returns up to limit keys that the ledger has as live.
func (r *Replica) Live(ctx context.Context, model string, s Span, limit int) ([]KeyRevision, error) {
	page, err := r.store.Live(ctx, r.db, store.Replica, model, store.Range(s), limit)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return page, nil
}

// Pairs are keys with their revisions in the words of a line of a diff, but for its outer brackets: 1,0],[2,5.
type Pairs = store.Pairs

// Pairs is Live for a model whose keys are integers, and cheaper.
func (r *Replica) Pairs(ctx context.Context, model string, s Span, limit int) (Pairs, error) {
	pairs, err := r.store.Pairs(ctx, r.db, store.Replica, model, store.Range(s), limit)
	if err != nil {
		return pairs, fmt.Errorf("replica: %w", err)
	}
	return pairs, nil
}

// Keys reads the rows of a mirrored model, their primary keys only, page by page in its order. where, if not nil, narrows
// the query, whose model is the registered one.
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

// Clear empties the table of a mirrored model, and forgets what the ledger has as live, in one transaction. Tombstones
// stay, so that what was deleted stays so. It is for a load that starts over.
func (r *Replica) Clear(ctx context.Context, model string) error {
	b, err := r.bindingOf(model)
	if err != nil {
		return err
	}
	err = r.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if err := r.store.ForgetLive(ctx, tx, model); err != nil || b.mirror == nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM ?", b.table.SQLName)
		return err
	})
	if err != nil {
		return fmt.Errorf("replica: clear model %q: %w", model, err)
	}
	return nil
}

func qualified(table *schema.Table) string { return columns(string(table.SQLAlias)+".", table.PKs) }

func valuesOf(table *schema.Table, row reflect.Value) []any {
	values := make([]any, len(table.PKs))
	for i, pk := range table.PKs {
		values[i] = pk.Value(row).Interface()
	}
	return values
}

// identity is the same for two rows of equal primary key, however they were read.
func identity(table *schema.Table, row reflect.Value) string {
	var b strings.Builder
	for _, value := range valuesOf(table, row) {
		if t, isTime := value.(time.Time); isTime {
			value = t.UnixMicro()
		}
		fmt.Fprintf(&b, "%v\x00", value)
	}
	return b.String()
}
