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
}

// ForceHeader is the header of a forced SYNC.
const ForceHeader = "cqrs_force"

// Sync appends SYNC messages with the present state of the instances with the given primary keys. Revisions are not
// raised. Keys whose row is gone, or kept from replicas by Filter, are left out; it returns how many were sent.
//
// The states are read without a lock, and sent where the ledger says that nobody has written the key meanwhile; the other
// keys are read again while they are locked, a few at a time. So a slow serializer holds up no writer of many keys. It waits
// half a minute for keys that others have locked. Give it some thousand keys at a time; what was appended before an error
// stays, and counts.
func (b *Box) Sync(ctx context.Context, model string, pks []json.RawMessage, o SyncOptions) (sent int, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return 0, err
	}
	marks, err := m.marksOf(ctx, b.db, pks)
	if err != nil || len(marks) == 0 {
		return 0, err
	}
	for part := range slices.Chunk(marks, flushBatch) {
		var n int
		n, err = b.syncPart(ctx, m, part, o)
		if sent += n; err != nil {
			err = fmt.Errorf("outbox: sync %s: %w", model, err)
			break
		}
	}
	if sent > 0 {
		b.committed(store.Offer{Rest: true})
	}
	return sent, err
}

// lockedAtOnce is how many keys are read while they are locked.
const lockedAtOnce = 20

// syncPart sends what was not written meanwhile, then the rest.
func (b *Box) syncPart(ctx context.Context, m *model, marks []*mark, o SyncOptions) (sent int, err error) {
	known, changes, states, err := b.readUnlocked(ctx, m, marks)
	if err != nil {
		return 0, err
	}
	settled := map[string]bool{}
	if len(changes) > 0 {
		err = b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) (err error) {
			settled, err = b.syncUnchanged(ctx, tx, m, known, changes, states, o)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	sent = len(settled)
	rest := slices.DeleteFunc(slices.Clone(marks), func(d *mark) bool { return settled[d.key] })
	for some := range slices.Chunk(rest, lockedAtOnce) {
		var n int
		err := b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) (err error) {
			n, err = b.syncLocked(ctx, tx, m, some, o)
			return err
		})
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// readUnlocked reads the ledger, and then the states: so a state is that of its revision, or the revision moves on.
func (b *Box) readUnlocked(
	ctx context.Context, m *model, marks []*mark,
) (known map[string]store.Known, changes []change, states []json.RawMessage, err error) {
	keys := make([]string, len(marks))
	for i, d := range marks {
		keys[i] = d.key
	}
	if known, err = b.store.Known(ctx, b.db, store.Outbox, m.id, keys); err != nil {
		return nil, nil, nil, err
	}
	rows, err := m.rowsByKey(ctx, b.db, marks)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, d := range marks {
		row := rows[d.key]
		if _, has := known[d.key]; has && row.IsValid() && (m.filter == nil || m.filter(row.Value)) {
			changes = append(changes, change{mark: d, row: row, outcome: saved})
		}
	}
	states, err = m.states(ctx, b.db, changes)
	return known, changes, states, err
}

// syncUnchanged appends the states of those keys that are at the revision that is known of them, and returns which.
func (b *Box) syncUnchanged(
	ctx context.Context, tx bun.IDB, m *model, known map[string]store.Known, changes []change, states []json.RawMessage, o SyncOptions,
) (map[string]bool, error) {
	keys := make([]string, len(changes))
	for i, c := range changes {
		keys[i] = c.mark.key
	}
	locked, err := b.store.LockKnown(ctx, tx, store.Outbox, m.id, keys)
	if err != nil {
		return nil, err
	}
	settled := make(map[string]bool, len(changes))
	var messages []store.Message
	for i, c := range changes {
		if k, found := locked[c.mark.key]; found && k == known[c.mark.key] {
			settled[c.mark.key] = true
			messages = append(messages, resent(m, c, k, states[i], o))
		}
	}
	if len(messages) == 0 {
		return settled, nil
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return !settled[key] })
	if err := b.store.NoteResent(ctx, tx, m.id, keys); err != nil {
		return nil, err
	}
	return settled, b.store.Append(ctx, tx, messages, nil)
}

// resent is the state of a key as a message.
func resent(m *model, c change, k store.Known, state json.RawMessage, o SyncOptions) store.Message {
	message := store.Message{
		Model: m.id, Key: c.mark.key, PK: c.mark.pk, Signal: string(envelope.Sync), Queue: o.Queue,
		Revision: k.Revision, Updated: k.Updated, Data: state,
	}
	if o.Force {
		message.Headers = map[string]string{ForceHeader: "true"}
	}
	return message
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

// syncLocked reads the states of keys that are locked, and appends them.
func (b *Box) syncLocked(ctx context.Context, tx bun.IDB, m *model, marks []*mark, o SyncOptions) (int, error) {
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
		messages[i] = resent(m, c, k, states[i], o)
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
