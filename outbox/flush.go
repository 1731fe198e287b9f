package outbox

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// flush turns the dirty set into messages: lock the keys in the ledger, read their rows, append.
//
// The order is the guarantee. The ledger lock is held until commit, so the reads see everything that earlier
// revisions of these keys committed, and nobody can commit a later one in between.
func (s *session) flush(ctx context.Context, tx bun.IDB) error {
	if err := s.seal(); err != nil || len(s.dirty) == 0 {
		return err
	}
	var keys []store.Key
	for m, marks := range s.dirty {
		for key := range marks {
			keys = append(keys, store.Key{Model: m.id, Key: key})
		}
	}
	revisions, err := s.box.store.Lock(ctx, tx, keys)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	var messages []store.Message
	var settlement store.Settlement
	for _, m := range slices.SortedFunc(maps.Keys(s.dirty), func(a, b *model) int { return cmp.Compare(a.id, b.id) }) {
		more, err := m.messages(ctx, tx, s.dirty[m], revisions, &settlement)
		if err != nil {
			return fmt.Errorf("outbox: model %s: %w", m.id, err)
		}
		messages = append(messages, more...)
	}
	if err := s.box.store.Settle(ctx, tx, settlement); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if err := s.box.store.Append(ctx, tx, messages); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	s.appended = len(messages) > 0
	return nil
}

// seal ends capture: from here on the session's own hook lets the flush's statements pass, and nothing else touches the
// dirty set. It returns what forbids the commit.
func (s *session) seal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushing = true
	if s.refused != nil {
		return s.refused
	}
	for _, err := range s.owed {
		return err
	}
	return nil
}

// messages reads the rows of one model's dirty keys and decides what each key's message is. What the transaction did
// to a key is read, not remembered: a row that is there was saved, one that is not was deleted.
func (m *model) messages(
	ctx context.Context, tx bun.IDB, marks map[string]*mark, revisions map[store.Key]store.Revision, done *store.Settlement,
) ([]store.Message, error) {
	dirty := slices.SortedFunc(maps.Values(marks), func(a, b *mark) int { return cmp.Compare(a.key, b.key) })
	rows, err := m.rowsByKey(ctx, tx, dirty)
	if err != nil {
		return nil, err
	}
	messages := make([]store.Message, 0, len(dirty))
	for _, d := range dirty {
		r := revisions[store.Key{Model: m.id, Key: d.key}]
		message := store.Message{
			Model: m.id, Key: d.key, PK: d.pk, Revision: r.Revision, After: r.After, Updated: r.Updated,
		}
		row, exists := rows[d.key]
		switch {
		case exists:
			message.Signal = string(envelope.Save)
			if message.Data, err = encodeRow(m.table, row, m.relations); err != nil {
				return nil, fmt.Errorf("key %s: %w", d.key, err)
			}
			if r.WasDeleted {
				done.Restored = append(done.Restored, r.Key)
			}
		case r.WasDeleted, d.inserted && r.Revision == 0:
			// Gone before and after: created and deleted again in this transaction, or its savepoint was rolled back.
			done.Unchanged = append(done.Unchanged, r)
			continue
		default:
			message.Signal = string(envelope.Delete)
			message.Data = envelope.DeleteData(d.pk)
			done.Deleted = append(done.Deleted, r.Key)
		}
		messages = append(messages, message)
	}
	return messages, nil
}

func (m *model) rowsByKey(ctx context.Context, tx bun.IDB, dirty []*mark) (map[string]reflect.Value, error) {
	rows, err := m.read(ctx, tx, dirty)
	if err != nil {
		return nil, err
	}
	byKey := make(map[string]reflect.Value, rows.Len())
	for i := range rows.Len() {
		_, key, _, err := m.keyOf(rows.Index(i))
		if err != nil {
			return nil, err
		}
		byKey[key] = rows.Index(i)
	}
	return byKey, nil
}
