package operate

import (
	"context"
	"encoding/json"
	"iter"
	"reflect"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
	"github.com/cqrsync/cqrsync/replica"
)

// heldKeys reads the primary keys that a replica has, as the master calls them: from the ledger
// where that speaks for the table, else from the table.
func heldKeys(
	ctx context.Context, rep *replica.Replica, model string, o Options,
) (iter.Seq2[[]json.RawMessage, error], error) {
	shape, err := mirrored.Of(rep).Model(model)
	if err != nil {
		return nil, err
	}
	where, err := o.Filter.onReplica(shape)
	if err != nil {
		return nil, err
	}
	if where == nil {
		speaks, err := mirrored.Of(rep).LedgerSpeaks(ctx, model)
		if err != nil {
			return nil, err
		}
		if speaks {
			return ledgerKeys(ctx, rep, model, shape, o.pageSize(diffPage)), nil
		}
	}
	h := &holder{rep: rep, model: model, shape: shape}
	if h.exact, err = mirrored.Of(rep).KeyIsExact(ctx, model); err != nil {
		return nil, err
	}
	return func(yield func([]json.RawMessage, error) bool) {
		for rows, err := range mirrored.Of(rep).Keys(ctx, model, where, o.pageSize(diffPage)) {
			var page []json.RawMessage
			if err == nil {
				page, err = h.known(ctx, rows)
			}
			if !yield(page, err) || err != nil {
				return
			}
			if len(h.strangers) >= maxSuspects && !h.introduce(ctx, yield) {
				return
			}
		}
		h.introduce(ctx, yield)
	}, nil
}

func ledgerKeys(
	ctx context.Context, rep *replica.Replica, model string, shape mirrored.Shape, size int,
) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		for page, err := range livePages(ctx, rep, model, size) {
			pks := make([]json.RawMessage, len(page))
			for i, kept := range page {
				pks[i] = stored.KeyJSON(shape.Key, kept.Key)
			}
			if !yield(pks, err) || err != nil {
				return
			}
		}
	}
}

// livePages reads the live keys of the ledger.
func livePages(
	ctx context.Context, rep *replica.Replica, model string, size int,
) iter.Seq2[[]mirrored.KeyRevision, error] {
	return func(yield func([]mirrored.KeyRevision, error) bool) {
		for last := ""; ; {
			page, err := mirrored.Of(rep).Live(ctx, model, mirrored.Span{After: last}, size)
			if !yield(page, err) || err != nil || len(page) < size {
				return
			}
			last = page[len(page)-1].Key
		}
	}
}

// holder says how the master calls the rows of a replica. Where a type has several spellings of one
// key, the table has the replica's, and the ledger the master's.
type holder struct {
	rep   *replica.Replica
	model string
	shape mirrored.Shape
	// exact says that keys have one spelling.
	exact bool
	// strangers are rows that the ledger does not know as the table spells them.
	strangers []stranger
}

type stranger struct {
	pk  json.RawMessage
	key string
}

// known returns the keys of rows that the ledger knows as they stand in the table. The others are
// strangers.
func (h *holder) known(ctx context.Context, rows []reflect.Value) ([]json.RawMessage, error) {
	pks, keys := make([]json.RawMessage, len(rows)), make([]string, len(rows))
	for i, row := range rows {
		var err error
		if pks[i], keys[i], err = boxed.Rows.Key(h.shape.Key, row); err != nil {
			return nil, err
		}
	}
	if h.exact {
		return pks, nil
	}
	live, err := mirrored.Of(h.rep).Known(ctx, h.model, keys)
	if err != nil {
		return nil, err
	}
	page := pks[:0]
	for i, pk := range pks {
		if live[keys[i]] {
			page = append(page, pk)
		} else {
			h.strangers = append(h.strangers, stranger{pk, keys[i]})
		}
	}
	return page, nil
}

// introduce hands on the strangers as the master calls them, where the ledger has their rows under
// another spelling, and as they stand in the table where it has not.
func (h *holder) introduce(ctx context.Context, yield func([]json.RawMessage, error) bool) bool {
	if len(h.strangers) == 0 {
		return true
	}
	page, _, err := h.named(ctx)
	if err != nil {
		yield(nil, err)
		return false
	}
	return yield(page, nil)
}

// named returns the strangers' names, and says which of them the ledger has under another spelling:
// these have that. They are no strangers afterwards. It goes through the ledger once.
func (h *holder) named(ctx context.Context) (page []json.RawMessage, listed []bool, err error) {
	places := make(map[string]int, len(h.strangers))
	page, listed = make([]json.RawMessage, len(h.strangers)), make([]bool, len(h.strangers))
	for i, s := range h.strangers {
		places[s.key], page[i] = i, s.pk
	}
	h.strangers = nil
	for live, err := range livePages(ctx, h.rep, h.model, statePage) {
		if err == nil {
			err = h.recognise(ctx, live, func(own string, pk json.RawMessage) {
				if at, is := places[own]; is {
					page[at], listed[at] = pk, true
				}
			})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return page, listed, nil
}

// recognise tells of each row of the ledger how the table spells its key, and how the ledger does.
func (h *holder) recognise(
	ctx context.Context, live []mirrored.KeyRevision, tell func(own string, pk json.RawMessage),
) error {
	pks := make([]json.RawMessage, len(live))
	for i, k := range live {
		pks[i] = stored.KeyJSON(h.shape.Key, k.Key)
	}
	kept, err := mirrored.Of(h.rep).Lookup(ctx, h.model, pks, false)
	if err != nil {
		return err
	}
	for i, k := range kept {
		if !k.Present {
			continue
		}
		_, own, err := boxed.Rows.Key(h.shape.Key, k.Row)
		if err != nil {
			return err
		}
		tell(own, pks[i])
	}
	return nil
}
