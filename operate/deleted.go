package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"reflect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// DeletedDiffReplica writes the keys that the replica has, or those of the rows that Options.Filter selects: model and time
// in the first line, then lines of keys. Nothing is written where it has none. It returns how many there are.
func DeletedDiffReplica(ctx context.Context, rep *replica.Replica, model string, w io.Writer, o Options) (int64, error) {
	p := o.pace()
	h, err := newHeader(ctx, model, rep)
	if err != nil {
		return 0, fmt.Errorf("deleted diff of %s: %w", model, err)
	}
	to := newOut(w, h)
	pages, err := keysOf(ctx, rep, model, o)
	if err != nil {
		return 0, fmt.Errorf("deleted diff of %s: %w", model, err)
	}
	for page, err := range pages {
		if err != nil {
			return p.done, fmt.Errorf("deleted diff of %s: %w", model, err)
		}
		if err := to.keys(page); err != nil {
			return p.done, fmt.Errorf("deleted diff of %s: write: %w", model, err)
		}
		if err := p.add(ctx, len(page)); err != nil {
			return p.done, err
		}
	}
	return p.done, nil
}

// keysOf reads the primary keys that a replica has: from the ledger where that speaks for the table, else from the table.
func keysOf(
	ctx context.Context, rep *replica.Replica, model string, o Options,
) (iter.Seq2[[]json.RawMessage, error], error) {
	shape, err := rep.Model(model)
	if err != nil {
		return nil, err
	}
	where, err := o.Filter.onReplica(shape)
	if err != nil {
		return nil, err
	}
	if where == nil {
		speaks, err := rep.LedgerSpeaks(ctx, model)
		if err != nil {
			return nil, err
		}
		if speaks {
			return ledgerKeys(ctx, rep, model, shape, o.pageSize(diffPage)), nil
		}
	}
	return tableKeys(rep.Keys(ctx, model, where, o.pageSize(diffPage)), shape), nil
}

func ledgerKeys(
	ctx context.Context, rep *replica.Replica, model string, shape replica.Shape, size int,
) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		for last := ""; ; {
			page, err := rep.Live(ctx, model, replica.Span{After: last}, size)
			pks := make([]json.RawMessage, len(page))
			for i, kept := range page {
				pks[i] = outbox.KeyJSON(shape.Table, kept.Key)
			}
			if !yield(pks, err) || err != nil || len(page) < size {
				return
			}
			last = page[len(page)-1].Key
		}
	}
}

func tableKeys(pages iter.Seq2[[]reflect.Value, error], shape replica.Shape) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		for page, err := range pages {
			pks := make([]json.RawMessage, len(page))
			for i := 0; i < len(page) && err == nil; i++ {
				pks[i], _, err = outbox.EncodeKey(shape.Table, page[i])
			}
			if !yield(pks, err) || err != nil {
				return
			}
		}
	}
}

// DeletedDiffMaster reads what DeletedDiffReplica wrote and writes, below the same first line, the keys that the master
// does not have, or does not send.
func DeletedDiffMaster(
	ctx context.Context, box *outbox.Box, r io.Reader, w io.Writer, o Options,
) (d Difference, err error) {
	in := newLines(r)
	h, ok, err := in.header()
	if err != nil || !ok {
		return d, err
	}
	if _, err := box.Model(h.model); err != nil {
		return d, err
	}
	d.Model = h.model
	to := newOut(w, h)
	to.opened = o.SkipLines > 0
	to.open()
	if err := to.Flush(); err != nil {
		return d, err
	}
	err = in.eachKeys(ctx, o, func(pks []json.RawMessage) error {
		gone, err := missing(ctx, box, h.model, pks)
		d.Compared += int64(len(pks))
		d.Differing += int64(len(gone))
		if err != nil {
			return err
		}
		return to.keys(gone)
	})
	return d, err
}

// missing are the keys of which the master has no instance.
func missing(ctx context.Context, box *outbox.Box, model string, pks []json.RawMessage) ([]json.RawMessage, error) {
	instances, err := box.Lookup(ctx, model, pks)
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(instances))
	for _, i := range instances {
		there[i.Key] = true
	}
	var gone []json.RawMessage
	for _, pk := range pks {
		key, err := envelope.KeyOf(pk)
		if err != nil {
			return nil, err
		}
		if !there[key] {
			gone = append(gone, pk)
		}
	}
	return gone, nil
}
