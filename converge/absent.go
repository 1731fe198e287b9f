package converge

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
	"github.com/cqrsync/cqrsync/operate"
)

// deleteAbsent deletes what the replica alone has: keys that the master neither has nor remembers.
// It does so only where the guards of a diff allow it, for all that the pass has found together.
func (v *verifier) deleteAbsent(ctx context.Context, m absent) error {
	if v.config.Verify != Repair || v.config.NoRequests {
		return nil
	}
	allowed, known := v.allowed[m.Pass]
	if !known {
		err := operate.Guard(ctx, v.rep, m.Model, m.Of, 0)
		if tooMany := (*operate.TooManyDeletesError)(nil); errors.As(err, &tooMany) {
			v.log.Error("the master does not have rows that are here, and they are too many to be "+
				"deleted unasked: look at them with relay diff", "model", m.Model, "error", err)
		} else if err != nil {
			return err
		}
		if len(v.allowed) > maxQuestions {
			clear(v.allowed)
		}
		allowed = err == nil
		v.allowed[m.Pass] = allowed
	}
	if !allowed {
		return nil
	}
	shape, err := v.replica.Model(m.Model)
	if err != nil {
		return err
	}
	pks := make([]json.RawMessage, len(m.Keys))
	for i, k := range m.Keys {
		pks[i] = stored.KeyJSON(shape.Key, k.Key)
	}
	kept, err := v.replica.Lookup(ctx, m.Model, pks, false)
	if err != nil {
		return err
	}
	var deletes []*envelope.Message
	for i, k := range kept {
		if k.Present && k.Revision == m.Keys[i].Revision { // else it was written since
			deletes = append(deletes, deletion(m.Model, pks[i], k))
		}
	}
	results, err := v.rep.Apply(ctx, deletes)
	for _, result := range results {
		if result.Applied {
			v.counts.deleted.Add(1)
		}
	}
	return err
}

// deletion deletes just the state that was looked at: whatever comes after it is newer to the gate.
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
