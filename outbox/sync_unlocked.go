package outbox

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// unlockedRead is what was read without a lock.
type unlockedRead struct {
	known   map[string]ledger.Known
	changes []change
	states  []json.RawMessage
	unread  []*mark
}

// readUnlocked reads the ledger, and then the states: so a state is that of its revision, or the
// revision moves on.
func (b *Box) readUnlocked(
	ctx context.Context, m *model, marks []*mark,
) (u unlockedRead, err error) {
	keys := make([]string, len(marks))
	for i, d := range marks {
		keys[i] = d.key
	}
	if u.known, err = b.ledger.Known(ctx, b.db, m.id, keys); err != nil {
		return u, err
	}
	read, cut, err := m.read(ctx, b.db, marks, pageBytes)
	if err != nil {
		return u, err
	}
	rows, err := m.byKey(read)
	if err != nil {
		return u, err
	}
	for _, d := range marks {
		row := rows[d.key]
		switch _, has := u.known[d.key]; {
		case cut && !row.IsValid():
			u.unread = append(u.unread, d)
		case has && m.sends(row):
			u.changes = append(u.changes, change{mark: d, row: row, outcome: saved})
		}
	}
	u.states, err = m.states(ctx, b.db, u.changes)
	return u, err
}

// syncUnchanged appends the states of those keys that are at the revision that is known of them,
// and returns which.
func (b *Box) syncUnchanged(
	ctx context.Context, tx bun.IDB, m *model, u unlockedRead, o SyncOptions,
) (map[string]bool, error) {
	keys := make([]string, len(u.changes))
	for i, c := range u.changes {
		keys[i] = c.mark.key
	}
	locked, err := b.ledger.LockKnown(ctx, tx, m.id, keys)
	if err != nil {
		return nil, err
	}
	settled := make(map[string]bool, len(u.changes))
	var messages []outgoing.Message
	for i, c := range u.changes {
		if k, found := locked[c.mark.key]; found && k == u.known[c.mark.key] {
			settled[c.mark.key] = true
			message, err := resent(m, c, k, u.states[i], o)
			if err != nil {
				return nil, err
			}
			messages = append(messages, message)
		}
	}
	if len(messages) == 0 {
		return settled, nil
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return !settled[key] })
	if err := b.ledger.NoteResent(ctx, tx, m.id, keys); err != nil {
		return nil, err
	}
	return settled, b.writer.Append(ctx, tx, messages, nil)
}
