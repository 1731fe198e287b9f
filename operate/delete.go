package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
)

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
	in := newLines(r)
	h, ok, err := in.header()
	if err != nil || !ok {
		return Deletion{}, err
	}
	if _, err := rep.Model(h.model); err != nil {
		return Deletion{}, err
	}
	d := deleter{rep: rep, listed: h.at(), bad: bad, done: Deletion{Model: h.model}}
	if err := d.requirePast(ctx); err != nil {
		return d.done, err
	}
	err = in.eachKeys(ctx, o, func(pks []json.RawMessage) error { return d.delete(ctx, pks) })
	return d.done, err
}

type deleter struct {
	rep    *replica.Replica
	listed time.Time // what was applied later was created again since; by the replica database's clock
	bad    func(pk json.RawMessage, err error)
	done   Deletion
}

// ErrListedLater says that the keys were listed by another clock than that of this replica's database, or that this was set
// back: then nobody knows what was created again since.
var ErrListedLater = errors.New("the keys were listed later than it is by the clock of the replica's database")

func (d *deleter) requirePast(ctx context.Context) error {
	now, err := d.rep.Now(ctx)
	if err == nil && d.listed.After(now) {
		err = fmt.Errorf("line 1: %w (%s, where it is %s): list them again, with deleted-diff-replica of this replica",
			ErrListedLater, envelope.FormatTime(d.listed), envelope.FormatTime(now))
	}
	return err
}

func (d *deleter) delete(ctx context.Context, pks []json.RawMessage) error {
	kept, err := d.rep.Lookup(ctx, d.done.Model, pks, false)
	if err != nil {
		return err
	}
	var messages []*envelope.Message
	for i, k := range kept {
		switch {
		case !k.Present && (k.Deleted || k.Revision < 0): // it is gone already
		case k.Applied.After(d.listed):
			d.done.Kept++
		default:
			messages = append(messages, deletion(d.done.Model, pks[i], k))
		}
	}
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
