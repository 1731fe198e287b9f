package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
)

// flushBatch is how many rows the flush holds in memory at once.
const flushBatch = 1000

// flush turns the dirty set into messages: lock the keys in the ledger, read their rows, append.
//
// The order is the guarantee. The ledger lock is held until commit, so the reads see everything
// that earlier revisions of these keys committed, and nobody can commit a later one in between.
func (s *session) flush(ctx context.Context, tx bun.IDB) error {
	if err := s.seal(ctx); err != nil {
		return err
	}
	if err := s.takeMarks(ctx, tx); err != nil || len(s.dirty) == 0 {
		return err
	}
	ctx = context.WithValue(ctx, flushKey{}, s)
	for _, m := range slices.SortedFunc(maps.Keys(s.dirty),
		func(a, b *model) int { return cmp.Compare(a.id, b.id) }) {
		if err := s.flushModel(ctx, tx, m); err != nil {
			return fmt.Errorf("outbox: model %s: %w", m.id, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused // what a goroutine or a Serializer tried meanwhile
}

// users is the context for functions of the user's that the flush calls.
func users(ctx context.Context) context.Context { return context.WithValue(ctx, flushKey{}, nil) }

// flushModel locks, reads and appends for one model. Models come in the order of their ids and keys
// in theirs, so that no two transactions lock the ledger crosswise.
func (s *session) flushModel(ctx context.Context, tx bun.IDB, m *model) error {
	marks := slices.SortedFunc(maps.Values(s.dirty[m]), func(a, b *mark) int {
		return cmp.Compare(a.key, b.key)
	})
	if recorded, err := s.record(ctx, tx, m, marks); recorded || err != nil {
		return err
	}
	if err := s.runDeferred(ctx, tx); err != nil {
		return err
	}
	respelled, err := s.flushMarks(ctx, tx, m, marks)
	if err != nil || len(respelled) == 0 {
		return err
	}
	marks = slices.SortedFunc(maps.Values(respelled), func(a, b *mark) int {
		return cmp.Compare(a.key, b.key)
	})
	_, err = s.flushMarks(ctx, tx, m, marks)
	return err
}

// runDeferred makes deferred triggers run before the flush reads, because what they write is part
// of the state at commit. A transaction that goes on after the flush keeps its own order.
func (s *session) runDeferred(ctx context.Context, tx bun.IDB) error {
	if s.tx.Tx == nil || s.deferredRan {
		return nil
	}
	s.deferredRan = true
	return s.box.writer.RunDeferred(ctx, tx)
}

// flushMarks returns marks for the rows that the database found by another spelling of their key:
// the key of a row is the stored one.
func (s *session) flushMarks(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark,
) (respelled map[string]*mark, err error) {
	changes := make([]ledger.Change, len(marks))
	for i, d := range marks {
		changes[i] = ledger.Change{Key: db.Key{Model: m.id, Key: d.key}, Existed: !d.inserted}
	}
	revisions, err := s.box.ledger.Lock(ctx, tx, changes)
	if err != nil {
		return nil, err
	}
	respelled = map[string]*mark{}
	for batch := range slices.Chunk(marks, flushBatch) {
		if err := s.flushBatch(ctx, tx, m, batch, revisions, respelled); err != nil {
			return nil, err
		}
	}
	return respelled, nil
}

// record does all of it at once where every state is known without reading, and the database finds
// the rows so.
func (s *session) record(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark,
) (recorded bool, err error) {
	entities := make([]master.Entity, len(marks))
	for i, d := range marks {
		if d.state == nil {
			return false, nil
		}
		entities[i] = master.Entity{Key: d.key, PK: d.pk, Data: d.state.data, Row: d.state.row,
			Existed: !d.inserted}
	}
	rows, err := m.plainRows(ctx, s.box, tx)
	if err != nil || rows == nil {
		return false, err
	}
	common, err := m.common(ctx)
	if err != nil {
		return false, err
	}
	common.Signal = string(envelope.Save)
	recorded, err = s.box.writer.Record(ctx, tx, common, entities, rows, s.appended)
	s.wrote = s.wrote || recorded
	return recorded, err
}

// seal ends capture: nothing else touches the dirty set. It returns what forbids the commit.
func (s *session) seal(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	if s.lost != nil {
		return lostErr(s.lost)
	}
	if s.refused != nil {
		return s.refused
	}
	if s.doubt != nil {
		return s.doubt
	}
	for _, err := range s.owed {
		if !s.box.observer.allows(ctx, err) {
			return err
		}
	}
	for m, err := range s.untouched {
		if !s.named[m] && !s.box.observer.allows(ctx, err) {
			return err
		}
	}
	if s.running > 0 {
		return errRunning
	}
	return nil
}

var errRunning = errors.New("outbox: a statement of the transaction still runs, in a goroutine " +
	"that fn has not waited for: wait for all of them before fn returns")

func (s *session) flushBatch(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark, revisions map[db.Key]ledger.Revision,
	respelled map[string]*mark,
) error {
	rows, err := m.rowsByKey(ctx, tx, marks)
	if err != nil {
		return err
	}
	spelled, err := s.spellings(ctx, tx, m, marks, rows, respelled)
	if err != nil {
		return err
	}
	changes := make([]change, len(marks))
	for i, d := range marks {
		changes[i] = m.judge(d, revisions[db.Key{Model: m.id, Key: d.key}], rows[d.key])
		if (spelled[d] || d.moved && !rows[d.key].IsValid()) && !wasSent(changes[i].revision) {
			changes[i].outcome = unchanged
		}
		if d.vanished {
			changes[i].outcome = unchanged
		}
	}
	messages, err := m.messages(ctx, tx, changes)
	if err != nil {
		return err
	}
	settlement, err := m.settlement(changes)
	if err != nil {
		return err
	}
	if err := s.box.ledger.Settle(ctx, tx, settlement); err != nil {
		return err
	}
	s.wrote = s.wrote || len(messages) > 0
	return s.box.writer.Append(ctx, tx, messages, s.appended)
}

// wasSent says that replicas have a row of the key. A key that is only another spelling has none;
// where it has, the row is stored under another spelling since, and the old one is to go.
func wasSent(r ledger.Revision) bool { return r.After != nil && !r.WasDeleted }

// outcome is what the replicas are to learn of a key.
type outcome int

const (
	saved     outcome = iota // its state
	deleted                  // that it is gone
	hidden                   // nothing, and they do not have it
	unsent                   // nothing, and they keep what they have
	unchanged                // nothing, because nothing happened
)

// change is one dirty key with what became of it.
type change struct {
	mark     *mark
	revision ledger.Revision
	row      record // as it is now, invalid if it is gone
	outcome  outcome
}

// judge reads, rather than remembers, what the transaction did to a key: a row that is there was
// saved, one that is not was deleted.
func (m *model) judge(d *mark, r ledger.Revision, row record) change {
	exists := row.IsValid()
	// Replicas may have loaded a key that the ledger meets for the first time, unless this
	// transaction made it, or nothing but a guess says that there ever was such a row.
	unknown := r.WasDeleted || r.Revision == 0 && d.inserted ||
		d.guessed && r.After == nil && r.Revision <= 1
	c := change{mark: d, revision: r, row: row}
	switch {
	case !exists && unknown:
		// Gone before and after: created and deleted again in this transaction, or its savepoint
		// was rolled back.
		c.outcome = unchanged
	case m.silent:
		c.outcome = unsent
	case m.sends(row):
		c.outcome = saved
	case exists && unknown:
		c.outcome = hidden
	case exists && m.keepsCopies:
		c.outcome = unsent
	default:
		c.outcome = deleted
	}
	return c
}

// settlement is what the ledger must know of the changes beyond their revisions.
func (m *model) settlement(changes []change) (ledger.Settlement, error) {
	done := ledger.Settlement{Tracked: map[db.Key]json.RawMessage{}}
	for _, c := range changes {
		key := c.revision.Key
		gone := c.outcome == deleted || c.outcome == hidden || !c.row.IsValid()
		switch {
		case c.outcome == unchanged:
			done.Unchanged = append(done.Unchanged, c.revision)
			continue
		case gone:
			done.Deleted = append(done.Deleted, key)
		case c.revision.WasDeleted:
			done.Restored = append(done.Restored, key)
		}
		if c.outcome == hidden || c.outcome == unsent {
			done.Unsent = append(done.Unsent, key)
		}
		if len(m.tracked) > 0 && c.outcome == saved {
			values, err := m.encodeColumns(c.row)
			if err != nil {
				return done, err
			}
			done.Tracked[key] = values
		}
	}
	return done, nil
}
