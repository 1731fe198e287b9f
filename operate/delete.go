package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
)

// Deletion is what DeletedSyncReplica did.
type Deletion struct {
	Model string
	// Deleted keys are gone from the replica. Kept ones changed after they were listed: they were
	// created again, and the next diff tells. Bad ones could not be deleted.
	Deleted, Kept, Bad int64
}

// DeletedSyncReplica reads what DeletedDiffMaster wrote and deletes those keys from the replica,
// through its gate: a key that was created again meanwhile is left alone. bad, if not nil, is
// called for each key that could not be deleted.
//
// Nothing is deleted before all of the input is there: where it is cut short, or Guard finds it too
// much, nothing is.
func DeletedSyncReplica(
	ctx context.Context, rep *replica.Replica, r io.Reader, o Options,
	bad func(pk json.RawMessage, err error),
) (done Deletion, err error) {
	in := newLines(r)
	h, ok, err := in.header(stageDeletedDiffMaster, o)
	if err != nil || !ok {
		return Deletion{}, err
	}
	d := deleter{rep: rep, listed: h.at(), bad: bad, done: Deletion{Model: h.model}}
	if err := mirrored.Of(rep).CheckWrites(ctx, h.model); err != nil {
		return d.done, err
	}
	if err := d.requirePast(ctx); err != nil {
		return d.done, err
	}
	// Whether they are too many is known when all are: nothing is deleted before.
	var keep spool
	defer func() { err = errors.Join(err, keep.close()) }()
	deletes, err := d.count(ctx, in, o, &keep)
	if err == nil {
		err = Guard(ctx, rep, h.model, deletes, o.MaxDeletes)
	}
	if err != nil {
		return d.done, err
	}
	kept, err := keep.reader()
	if err != nil {
		return d.done, err
	}
	again := newLines(kept)
	again.number = 1 // the first line
	err = again.eachKeys(ctx, o, func(pks []json.RawMessage) error { return d.delete(ctx, pks) })
	return d.done, err
}

// count keeps the lines, and counts the rows that they would delete.
func (d *deleter) count(
	ctx context.Context, in *lines, o Options, keep *spool,
) (deletes int64, err error) {
	for n := 1; ; n++ {
		line, ok, err := in.next()
		if err == nil && !ok {
			return deletes, in.complete()
		}
		if err == nil {
			err = keep.add(line)
		}
		if err != nil {
			return deletes, err
		}
		if n <= o.SkipLines {
			continue
		}
		pks, err := parseKeys(line)
		if err != nil {
			return deletes, fmt.Errorf("line %d: %w", in.number, err)
		}
		_, rows, _, err := d.due(ctx, pks)
		if err != nil {
			return deletes, fmt.Errorf("line %d: %w", in.number, err)
		}
		deletes += rows
	}
}

type deleter struct {
	rep *replica.Replica
	// what was applied later was created again since; by the replica database's clock
	listed time.Time
	bad    func(pk json.RawMessage, err error)
	done   Deletion
}

// ErrListedLater says that the keys were listed by another clock than that of this replica's
// database, or that this was set back: then nobody knows what was created again since.
var ErrListedLater = errors.New("the keys were listed later than it is by the clock of the " +
	"replica's database")

func (d *deleter) requirePast(ctx context.Context) error {
	now, err := d.rep.Now(ctx)
	if err == nil && d.listed.After(now) {
		err = fmt.Errorf("line 1: %w (%s, where it is %s): list them again, with "+
			"deleted-diff-replica of this replica",
			ErrListedLater, envelope.FormatTime(d.listed), envelope.FormatTime(now))
	}
	return err
}

// due are the deletes of keys, and how many rows they are about; newer keys changed since they were
// listed.
func (d *deleter) due(
	ctx context.Context, pks []json.RawMessage,
) (messages []*envelope.Message, rows, newer int64, err error) {
	kept, err := mirrored.Of(d.rep).Lookup(ctx, d.done.Model, pks, false)
	if err != nil {
		return nil, 0, 0, err
	}
	for i, k := range kept {
		switch {
		case !k.Present && (k.Deleted || k.Revision < 0): // it is gone already
		case !k.Applied.Before(d.listed): // in the same millisecond, too: it is never deleted in doubt
			newer++
		default:
			messages = append(messages, deletion(d.done.Model, pks[i], k))
			if k.Present {
				rows++
			}
		}
	}
	return messages, rows, newer, nil
}

func (d *deleter) delete(ctx context.Context, pks []json.RawMessage) error {
	messages, _, newer, err := d.due(ctx, pks)
	if err != nil {
		return err
	}
	d.done.Kept += newer
	results, err := d.rep.Apply(ctx, messages)
	if err != nil {
		return err
	}
	for i, result := range results {
		switch {
		case result.Err != nil:
			d.done.Bad++
			if d.bad != nil {
				d.bad(messages[i].PK, result.Err)
			}
		case result.Applied:
			d.done.Deleted++
		default:
			d.done.Kept++
		}
	}
	return nil
}

// deletion deletes just the state that was looked at: whatever came after it is newer to the gate,
// and so is what may come.
func deletion(model string, pk json.RawMessage, k mirrored.Kept) *envelope.Message {
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
