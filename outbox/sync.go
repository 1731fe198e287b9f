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
	// Bad, if set, is called for each key whose state cannot be sent, and for each that is no key of
	// the model; the others are sent. Without it the first such key fails all.
	Bad func(pk json.RawMessage, err error)
}

// ForceHeader is the header of a forced SYNC.
const ForceHeader = "cqrs_force"

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
	marks, err := m.marksToSync(ctx, b.db, pks, o.Bad)
	if err != nil || len(marks) == 0 {
		return 0, err
	}
	send := func(marks []*mark) error {
		n, err := b.syncAtOnce(ctx, m, marks, o)
		sent += n
		return err
	}
	if o.Bad == nil {
		err = send(marks)
	} else {
		err = inHalves(marks, send, func(d *mark, err error) error {
			if err := b.stillReads(ctx, m, record{Value: d.row}); err != nil {
				return err
			}
			o.Bad(d.pk, err)
			return nil
		})
	}
	if sent > 0 {
		b.committed(store.Offer{Rest: true})
	}
	if err != nil {
		return sent, fmt.Errorf("outbox: sync %s: %w", model, err)
	}
	return sent, nil
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

// syncAtOnce sends states in one transaction.
func (b *Box) syncAtOnce(ctx context.Context, m *model, marks []*mark, o SyncOptions) (sent int, err error) {
	if len(marks) == 0 {
		return 0, nil
	}
	err = b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) error {
		sent = 0
		size := flushBatch
		for rest := marks; len(rest) > 0; {
			batch := rest[:min(size, len(rest))]
			n, unread, err := b.syncBatch(ctx, tx, m, batch, o)
			if err != nil {
				return err
			}
			sent += n
			rest = slices.Concat(unread, rest[len(batch):])
			size = min(2*size, flushBatch)
			if len(unread) > 0 {
				size = max(len(batch)-len(unread), 1)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
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

// syncBatch sends states. unread are the marks of rows that are too large to be held at once with
// the others.
func (b *Box) syncBatch(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark, o SyncOptions,
) (sent int, unread []*mark, err error) {
	keys, err := m.existing(ctx, tx, marks) // a ledger row is made for no other
	if err != nil || len(keys) == 0 {
		return 0, nil, err
	}
	known, err := b.lockLedger(ctx, tx, m, keys)
	if err != nil {
		return 0, nil, err
	}
	read, cut, err := m.read(ctx, tx, marks, pageBytes) // now nobody changes them
	if err != nil {
		return 0, nil, err
	}
	rows, err := m.byKey(read)
	if err != nil {
		return 0, nil, err
	}
	if cut {
		unread = slices.DeleteFunc(slices.Clone(marks), func(d *mark) bool { return rows[d.key].IsValid() })
		keys = slices.DeleteFunc(keys, func(key string) bool { return !rows[key].IsValid() })
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
		return 0, nil, err
	}
	messages := make([]store.Message, len(changes))
	for i, c := range changes {
		k := known[c.mark.key]
		messages[i] = store.Message{
			Model: m.id, Key: c.mark.key, PK: c.mark.pk, Signal: string(envelope.Sync), Queue: o.Queue,
			Revision: k.Revision, Updated: k.Updated, Data: states[i],
		}
		if o.Force {
			messages[i].Headers = map[string]string{ForceHeader: "true"}
		}
	}
	if err := b.store.NoteResent(ctx, tx, m.id, keys); err != nil {
		return 0, nil, err
	}
	return len(messages), unread, b.store.Append(ctx, tx, messages, nil)
}

// existing are those of the marked keys that have a row.
func (m *model) existing(ctx context.Context, tx bun.IDB, marks []*mark) ([]string, error) {
	asked := make([]record, len(marks))
	for i, d := range marks {
		asked[i] = record{Value: d.row}
	}
	rows, _, err := m.selectRows(ctx, tx, false, func(q *bun.SelectQuery) *bun.SelectQuery {
		return m.only(q, asked)
	})
	if err != nil {
		return nil, err
	}
	found, err := m.byKey(rows)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, d := range marks {
		if found[d.key].IsValid() {
			keys = append(keys, d.key)
		}
	}
	return keys, nil
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
