package outbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// inTxPatiently runs fn in a transaction that gives way, and starts over, where it would wait for
// long for one key: writers of all the keys it has locked already would wait for it.
func (b *Box) inTxPatiently(
	ctx context.Context, fn func(ctx context.Context, tx bun.IDB) error,
) error {
	for began := time.Now(); ; {
		err := b.own.InTx(ctx, fn)
		if !errors.As(err, new(*db.LockedError)) || time.Since(began) > syncPatience {
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
func (b *Box) syncLocked(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark, o SyncOptions,
) (sent []string, unread []*mark, err error) {
	keys, err := m.existing(ctx, tx, marks) // a ledger row is made for no other
	if err != nil || len(keys) == 0 {
		return nil, nil, err
	}
	known, err := b.lockLedger(ctx, tx, m, keys)
	if err != nil {
		return nil, nil, err
	}
	read, cut, err := m.read(ctx, tx, marks, pageBytes) // now nobody changes them
	if err != nil {
		return nil, nil, err
	}
	rows, err := m.byKey(read)
	if err != nil {
		return nil, nil, err
	}
	if cut {
		unread = slices.DeleteFunc(slices.Clone(marks), func(d *mark) bool {
			return rows[d.key].IsValid()
		})
		keys = slices.DeleteFunc(keys, func(key string) bool { return !rows[key].IsValid() })
	}
	var changes []change
	for _, d := range marks {
		row := rows[d.key]
		if _, locked := known[d.key]; locked && m.sends(row) {
			changes = append(changes, change{mark: d, row: row, outcome: saved})
		}
	}
	states, err := m.states(ctx, tx, changes)
	if err != nil {
		return nil, nil, err
	}
	messages := make([]outgoing.Message, len(changes))
	for i, c := range changes {
		if messages[i], err = resent(m, c, known[c.mark.key], states[i], o); err != nil {
			return nil, nil, err
		}
		sent = append(sent, c.mark.key)
	}
	if err := b.ledger.NoteResent(ctx, tx, m.id, keys); err != nil {
		return nil, nil, err
	}
	return sent, unread, b.writer.Append(ctx, tx, messages, nil)
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
func (b *Box) lockLedger(
	ctx context.Context, tx bun.IDB, m *model, keys []string,
) (map[string]ledger.Known, error) {
	known, err := b.ledger.LockKnown(ctx, tx, m.id, keys)
	if err != nil || len(known) == len(keys) {
		return known, err
	}
	unknown := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, found := known[key]
		return found
	})
	if err := b.ledger.Adopt(ctx, tx, m.id, unknown); err != nil {
		return nil, err
	}
	adopted, err := b.ledger.LockKnown(ctx, tx, m.id, unknown)
	maps.Copy(known, adopted)
	return known, err
}
