package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// SyncOptions say who is sent a state again.
type SyncOptions struct {
	// Queue is the one replica that is sent it; empty means all.
	Queue string
	// Force makes the replica take it even where it has a newer one: the master was restored from a backup.
	Force bool
	// ForceUntil makes the replica take it where what it has is newer, but not later than that, by the master database's
	// clock (see Box.Now): what the master does not know any more of that time it has lost. Zero means no.
	ForceUntil time.Time
}

// ForceHeader is the header of a forced SYNC.
const ForceHeader = "cqrs_force"

// force is the value of ForceHeader, empty for none.
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
	now, err := b.store.Now(ctx)
	if err != nil {
		return now, fmt.Errorf("outbox: %w", err)
	}
	return now, nil
}

// Sync appends SYNC messages with the present state of the instances with the given primary keys. Revisions are not
// raised. Keys whose row is gone, or kept from replicas by Filter, are left out; it returns how many were sent.
//
// The ledger rows are locked until the commit, as by a write: so a SYNC stands in the outbox where its revision does.
// Give it some thousand keys at a time. It waits half a minute for keys that others have locked. The database ends its
// transaction when this process says nothing for ten seconds, so serializers must not take that long.
func (b *Box) Sync(ctx context.Context, model string, pks []json.RawMessage, o SyncOptions) (sent int, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return 0, err
	}
	marks, err := m.marksOf(ctx, b.db, pks)
	if err != nil || len(marks) == 0 {
		return 0, err
	}
	err = b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) error {
		sent = 0
		for start := 0; start < len(marks); start += flushBatch {
			n, err := b.syncBatch(ctx, tx, m, marks[start:min(start+flushBatch, len(marks))], o)
			if err != nil {
				return err
			}
			sent += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("outbox: sync %s: %w", model, err)
	}
	if sent > 0 {
		b.committed(store.Offer{Rest: true})
	}
	return sent, nil
}

// syncPatience is how long Sync tries to lock keys that others hold. Between two tries it holds none.
const syncPatience = 30 * time.Second

// inTxPatiently runs fn in a transaction that gives way, and starts over, where it would wait for long for one key: writers
// of all the keys it has locked already would wait for it.
func (b *Box) inTxPatiently(ctx context.Context, fn func(ctx context.Context, tx bun.IDB) error) error {
	for began := time.Now(); ; {
		err := b.store.InTx(ctx, fn)
		if !errors.As(err, new(*store.LockedError)) || time.Since(began) > syncPatience {
			return err
		}
		pause := time.NewTimer(250 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

func (b *Box) syncBatch(ctx context.Context, tx bun.IDB, m *model, marks []*mark, o SyncOptions) (int, error) {
	rows, err := m.rowsByKey(ctx, tx, marks) // to know which exist: a ledger row is made for no other
	if err != nil {
		return 0, err
	}
	var keys []string
	for _, d := range marks {
		if rows[d.key].IsValid() {
			keys = append(keys, d.key)
		}
	}
	if len(keys) == 0 {
		return 0, nil
	}
	known, err := b.lockLedger(ctx, tx, m, keys)
	if err != nil {
		return 0, err
	}
	if rows, err = m.rowsByKey(ctx, tx, marks); err != nil { // again: now nobody changes them
		return 0, err
	}
	var changes []change
	for _, d := range marks {
		row := rows[d.key]
		if _, locked := known[d.key]; locked && row.IsValid() && (m.filter == nil || m.filter(row.Value)) {
			changes = append(changes, change{mark: d, row: row, outcome: saved})
		}
	}
	states, err := m.states(ctx, tx, changes)
	if err != nil {
		return 0, err
	}
	messages := make([]store.Message, len(changes))
	for i, c := range changes {
		k := known[c.mark.key]
		messages[i] = store.Message{
			Model: m.id, Key: c.mark.key, PK: c.mark.pk, Signal: string(envelope.Sync), Queue: o.Queue,
			Revision: k.Revision, Updated: k.Updated, Data: states[i],
		}
		if force := o.force(); force != "" {
			messages[i].Headers = map[string]string{ForceHeader: force}
		}
	}
	if err := b.store.NoteResent(ctx, tx, m.id, keys); err != nil {
		return 0, err
	}
	return len(messages), b.store.Append(ctx, tx, messages, nil)
}

// lockLedger locks the ledger rows of keys, and makes those that are missing.
func (b *Box) lockLedger(ctx context.Context, tx bun.IDB, m *model, keys []string) (map[string]store.Known, error) {
	known, err := b.store.LockKnown(ctx, tx, store.Outbox, m.id, keys)
	if err != nil || len(known) == len(keys) {
		return known, err
	}
	unknown := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, found := known[key]
		return found
	})
	if err := b.store.Adopt(ctx, tx, m.id, unknown); err != nil {
		return nil, err
	}
	adopted, err := b.store.LockKnown(ctx, tx, store.Outbox, m.id, unknown)
	maps.Copy(known, adopted)
	return known, err
}
