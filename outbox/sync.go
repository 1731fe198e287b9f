package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// SyncOptions say who is sent a state again.
type SyncOptions struct {
	// Queue is the one replica that is sent it; empty means all.
	Queue string
	// Force makes the replica take it even where it has a newer one: the master was restored from a
	// backup.
	Force bool
	// ForceUntil makes the replica take it where what it has is newer, but not later than that, by
	// the master database's clock (see Box.Now): what the master does not know any more of that
	// time it has lost. Zero means no.
	ForceUntil time.Time
	// Bad, if set, is called for each key whose state cannot be sent, and for each that is no key
	// of the model; the others are sent. Without it the first such key fails all.
	Bad func(pk json.RawMessage, err error)
}

// force is the value of envelope.ForceHeader, empty for none.
func (o SyncOptions) force() string {
	switch {
	case o.Force:
		return "true"
	case !o.ForceUntil.IsZero():
		return envelope.FormatTime(o.ForceUntil)
	}
	return ""
}

// Now is the time by the master database's clock: that of cqrs_updated.
func (b *Box) Now(ctx context.Context) (time.Time, error) {
	now, err := b.own.Now(ctx)
	if err != nil {
		return now, fmt.Errorf("outbox: %w", err)
	}
	return now, nil
}

// Sync appends SYNC messages with the present state of the instances with the given primary keys.
// Revisions are not raised. Keys whose row is gone, or kept from replicas by Filter, are left out;
// it returns how many were sent.
//
// The states are read without a lock, and sent where the ledger says that nobody has written the
// key meanwhile; the other keys are read again while they are locked, a few at a time. So a slow
// serializer holds up no writer of many keys. It waits half a minute for keys that others have
// locked. Give it some thousand keys at a time; what was appended before an error stays, and
// counts.
func (b *Box) Sync(
	ctx context.Context, model string, pks []json.RawMessage, o SyncOptions,
) (sent int, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return 0, err
	}
	marks, err := m.marksToSync(ctx, b.db, pks, o.Bad)
	if err != nil || len(marks) == 0 {
		return 0, err
	}
	done := map[string]bool{}
	for part := range slices.Chunk(marks, flushBatch) {
		if err = b.syncPart(ctx, m, part, o, done); err != nil {
			err = fmt.Errorf("outbox: sync %s: %w", model, err)
			break
		}
	}
	if len(done) > 0 {
		b.committed(handover.Offer{Rest: true})
	}
	return len(done), err
}

// syncPart sends states, without those that cannot be sent where o.Bad is told of them. done has
// the keys that were sent: of a part that failed in the middle, no message is appended twice.
func (b *Box) syncPart(
	ctx context.Context, m *model, marks []*mark, o SyncOptions, done map[string]bool,
) error {
	send := func(marks []*mark) error {
		return b.syncInBytes(ctx, m, without(marks, done), o, done)
	}
	if o.Bad == nil {
		return send(marks)
	}
	return inHalves(marks, send, func(d *mark, err error) error {
		if err := b.stillReads(ctx, m, record{Value: d.row}); err != nil {
			return err
		}
		o.Bad(d.pk, err)
		return nil
	})
}

// without leaves out the marks of keys that are done.
func without(marks []*mark, done map[string]bool) []*mark {
	return slices.DeleteFunc(slices.Clone(marks), func(d *mark) bool { return done[d.key] })
}

// syncInBytes sends states, as many at a time as can be held.
func (b *Box) syncInBytes(
	ctx context.Context, m *model, marks []*mark, o SyncOptions, done map[string]bool,
) error {
	size := flushBatch
	for rest := marks; len(rest) > 0; {
		batch := rest[:min(size, len(rest))]
		unread, err := b.syncBatch(ctx, m, batch, o, done)
		if err != nil {
			return err
		}
		rest = slices.Concat(unread, rest[len(batch):])
		size = min(2*size, flushBatch)
		if len(unread) > 0 {
			size = max(len(batch)-len(unread), 1)
		}
	}
	return nil
}

// marksToSync are the marks of the keys that the model can have.
func (m *model) marksToSync(
	ctx context.Context, db bun.IDB, pks []json.RawMessage, bad func(json.RawMessage, error),
) (marks []*mark, err error) {
	if bad == nil {
		return m.marksOf(ctx, db, pks)
	}
	seen := make(map[string]bool, len(pks))
	err = inHalves(pks, func(part []json.RawMessage) error {
		some, err := m.marksOf(ctx, db, part)
		for _, d := range some {
			if !seen[d.key] {
				seen[d.key] = true
				marks = append(marks, d)
			}
		}
		return err
	}, func(pk json.RawMessage, err error) error {
		bad(pk, err)
		return nil
	})
	return marks, err
}

// lockedAtOnce is how many keys are read while they are locked.
const lockedAtOnce = 20

// syncBatch sends what was not written meanwhile, then the rest. unread are the marks of rows that
// are too large to be held at once with the others.
func (b *Box) syncBatch(
	ctx context.Context, m *model, marks []*mark, o SyncOptions, done map[string]bool,
) (unread []*mark, err error) {
	read, err := b.readUnlocked(ctx, m, marks)
	if err != nil {
		return nil, err
	}
	var settled map[string]bool
	if len(read.changes) > 0 {
		err = b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) (err error) {
			settled, err = b.syncUnchanged(ctx, tx, m, read, o)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	maps.Copy(done, settled)
	later := map[string]bool{}
	for _, d := range read.unread {
		later[d.key] = true
	}
	rest := slices.DeleteFunc(without(marks, done), func(d *mark) bool { return later[d.key] })
	for len(rest) > 0 {
		some := rest[:min(lockedAtOnce, len(rest))]
		var sent []string
		var left []*mark
		err := b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) (err error) {
			sent, left, err = b.syncLocked(ctx, tx, m, some, o)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, key := range sent {
			done[key] = true
		}
		rest = slices.Concat(left, rest[len(some):])
	}
	return read.unread, nil
}

// resent is the state of a key as a message.
func resent(
	m *model, c change, k ledger.Known, state json.RawMessage, o SyncOptions,
) (outgoing.Message, error) {
	message := outgoing.Message{
		Model: m.id, Key: c.mark.key, PK: c.mark.pk, Signal: string(envelope.Sync), Queue: o.Queue,
		Revision: k.Revision, Updated: k.Updated,
	}
	if force := o.force(); force != "" {
		message.Headers = map[string]string{envelope.ForceHeader: force}
	}
	var err error
	message.Data, err = envelope.Shelve(state)
	return message, err
}

// syncPatience is how long Sync tries to lock keys that others hold. Between two tries it holds
// none.
const syncPatience = 30 * time.Second
