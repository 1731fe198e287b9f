package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// DeletedDiffReplica writes the keys that the replica has, or those of the rows that Options.Filter selects: model and time in the first line, then lines of keys. Nothing
// is written where it has none. It returns how many there are.
func DeletedDiffReplica(ctx context.Context, rep *replica.Replica, model string, w io.Writer, o Options) (int64, error) {
	p := o.pace()
	to := newOut(w, newHeader(model, ""))
	for page, err := range keysOf(ctx, rep, model, o) {
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
func keysOf(ctx context.Context, rep *replica.Replica, model string, o Options) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		size := o.pageSize(diffPage)
		shape, err := rep.Model(model)
		if err != nil {
			yield(nil, err)
			return
		}
		where, err := o.Filter.onReplica(shape)
		speaks := false
		if err == nil && where == nil {
			speaks, err = rep.LedgerSpeaks(ctx, model)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		if !speaks {
			for page, err := range rep.Keys(ctx, model, where, size) {
				pks := make([]json.RawMessage, len(page))
				for i, row := range page {
					if err == nil {
						pks[i], _, err = outbox.EncodeKey(shape.Table, row)
					}
				}
				if !yield(pks, err) || err != nil {
					return
				}
			}
			return
		}
		last := ""
		for {
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

// DeletedDiffMaster reads what DeletedDiffReplica wrote and writes, below the same first line, the keys that the master
// does not have, or does not send.
func DeletedDiffMaster(ctx context.Context, box *outbox.Box, r io.Reader, w io.Writer, o Options) (Difference, error) {
	var d Difference
	err := eachKeys(ctx, r, o, func(h header) (func([]json.RawMessage) error, error) {
		if _, err := box.Model(h.model); err != nil {
			return nil, err
		}
		d.Model = h.model
		to := newOut(w, h)
		to.opened = o.SkipLines > 0
		to.open()
		if err := to.Flush(); err != nil {
			return nil, err
		}
		return func(pks []json.RawMessage) error {
			gone, err := missing(ctx, box, h.model, pks)
			d.Compared += int64(len(pks))
			d.Differing += int64(len(gone))
			if err != nil {
				return err
			}
			return to.keys(gone)
		}, nil
	})
	return d, err
}

// eachKeys hands the lines of keys to what begin makes of the first line.
func eachKeys(
	ctx context.Context, r io.Reader, o Options, begin func(header) (func([]json.RawMessage) error, error),
) error {
	in := newLines(r)
	line, ok, err := in.next()
	if err != nil || !ok {
		return err
	}
	h, err := parseHeader(line)
	if err != nil {
		return err
	}
	handle, err := begin(h)
	if err != nil {
		return err
	}
	p := o.pace()
	for n := 1; ; n++ {
		line, ok, err := in.next()
		if err != nil || !ok {
			return err
		}
		if n <= o.SkipLines {
			continue
		}
		pks, err := keys(line, in.number)
		if err != nil {
			return err
		}
		if err := handle(pks); err != nil {
			return fmt.Errorf("line %d: %w", in.number, err)
		}
		if err := o.reached(n); err != nil {
			return err
		}
		if err := p.add(ctx, len(pks)); err != nil {
			return err
		}
	}
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

// Deletion is what DeletedSyncReplica did.
type Deletion struct {
	Model string
	// Deleted keys are gone from the replica. Kept ones changed after they were listed: they were created again, and the
	// next diff tells. Bad ones could not be deleted.
	Deleted, Kept, Bad int64
}

// DeletedSyncReplica reads what DeletedDiffMaster wrote and deletes those keys from the replica, through its gate: a key
// that was created again meanwhile is left alone. bad, if not nil, is called for each key that could not be deleted.
func DeletedSyncReplica(
	ctx context.Context, rep *replica.Replica, r io.Reader, o Options, bad func(pk json.RawMessage, err error),
) (Deletion, error) {
	var d Deletion
	err := eachKeys(ctx, r, o, func(h header) (func([]json.RawMessage) error, error) {
		if _, err := rep.Model(h.model); err != nil {
			return nil, err
		}
		d.Model = h.model
		listed := h.at().Add(-o.Grace)
		return func(pks []json.RawMessage) error {
			kept, err := rep.Lookup(ctx, h.model, pks, false)
			if err != nil {
				return err
			}
			var messages []*envelope.Message
			for i, k := range kept {
				switch {
				case !k.Present && (k.Deleted || k.Revision < 0):
				case k.Updated.After(listed):
					d.Kept++
				default:
					messages = append(messages, deletion(h.model, pks[i], k))
				}
			}
			results, err := rep.Apply(ctx, messages)
			if err != nil {
				return err
			}
			for i, result := range results {
				switch {
				case result.Err != nil:
					d.Bad++
					if bad != nil {
						bad(messages[i].PK, result.Err)
					}
				case result.Applied:
					d.Deleted++
				default:
					d.Kept++
				}
			}
			return nil
		}, nil
	})
	return d, err
}

// deletion deletes just the state that was looked at: whatever came after it is newer to the gate, and so is what may
// come.
func deletion(model string, pk json.RawMessage, k replica.Kept) *envelope.Message {
	m := &envelope.Message{
		Signal: envelope.Delete, Model: model, PK: pk, Key: k.Key,
		Revision: max(k.Revision, 0), Updated: k.Updated,
	}
	if k.Deleted {
		m.Revision++ // a row that is there beside its tombstone: only a newer delete passes
	}
	if m.Updated.IsZero() {
		m.Updated = time.Unix(0, 0).UTC() // any real time is later
	}
	m.Data = envelope.Stamp(envelope.DeleteData(pk), m.Revision, m.Updated)
	return m
}
