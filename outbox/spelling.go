package outbox

import (
	"context"
	"maps"
	"reflect"

	"github.com/uptrace/bun"
)

// spellings finds out what became of marks without a row: some are spelled otherwise in the
// database (they are added to respelled unless the stored key is marked itself), some are deleted.
// A row that a statement of the transaction left there, and that is in no place where the flush can
// find it, forbids the commit.
func (s *session) spellings(
	ctx context.Context, tx bun.IDB, m *model, marks []*mark, rows map[string]record,
	respelled map[string]*mark,
) (map[*mark]bool, error) {
	var missing []*mark
	var keys []reflect.Value
	for _, d := range marks {
		if !rows[d.key].IsValid() && (d.present || !m.exactKeys() && !d.stored) {
			missing, keys = append(missing, d), append(keys, d.row)
		}
	}
	there, err := m.stored(ctx, tx, keys)
	if err != nil {
		return nil, err
	}
	spelled := map[*mark]bool{}
	for _, d := range missing {
		var found []reflect.Value
		if len(there) > 0 { // which of them is this one's, only a question for it alone tells
			if found, err = m.stored(ctx, tx, []reflect.Value{d.row}); err != nil {
				return nil, err
			}
		}
		switch {
		case len(found) == 0 && d.present:
			refused := m.vanished(d)
			if d.vanished = s.box.observer.allows(ctx, refused); !d.vanished {
				return nil, refused
			}
			continue
		case len(found) == 0:
			continue
		}
		pk, key, _, err := m.keyOf(record{Value: found[0]})
		if err != nil {
			return nil, err
		}
		if key == d.key { // deleted softly
			continue
		}
		spelled[d] = true
		if s.dirty[m][key] == nil {
			respelled[key] = &mark{key: key, pk: pk, row: found[0], inserted: d.inserted,
				present: d.present, stored: true, said: d.said}
		}
	}
	return spelled, nil
}

// vanished refuses the commit of a transaction whose own row the flush does not find.
func (m *model) vanished(d *mark) *RefusedError {
	return &RefusedError{
		Verb: "COMMIT", Table: m.table.Name,
		Reason: "the row with the key " + d.key +
			" was written in this transaction and is not found at its end: row level security or " +
			"a changed search_path hides it, a trigger or view stored it under another key or " +
			"elsewhere, or something deleted it or rolled it back that did not pass through bun",
		Fix: "write it where a SELECT of " + m.table.TypeName +
			" finds it; report a row that is meant to be gone with Box.Deleted",
	}
}

// respell gives marks of a model the keys that the database has for them, as long as it has: a
// DELETE may name the same row by another spelling, and then nothing tells any more that they are
// one.
func (s *session) respell(ctx context.Context, m *model) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []reflect.Value
	for _, d := range s.dirty[m] {
		if !d.stored {
			rows = append(rows, d.row)
		}
	}
	found, err := m.stored(ctx, s.quiet(), rows)
	if err != nil {
		return err
	}
	for _, row := range found {
		if _, key, _, err := m.keyOf(record{Value: row}); err == nil && s.dirty[m][key] != nil {
			s.dirty[m][key].stored = true
		}
	}
	for given, d := range maps.Clone(s.dirty[m]) {
		if d.stored {
			continue
		}
		found, err := m.stored(ctx, s.quiet(), []reflect.Value{d.row})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			if err := s.rename(m, given, found[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// rename moves a mark to the key of the row that the database has. The given key stays marked:
// replicas may have a row of it, if the row has changed its spelling.
func (s *session) rename(m *model, given string, row reflect.Value) error {
	pk, key, _, err := m.keyOf(record{Value: row})
	if err != nil {
		return err
	}
	d := s.dirty[m][given]
	s.dirty[m][given] = &mark{
		key: d.key, pk: d.pk, row: d.row, inserted: d.inserted, guessed: d.guessed,
		stored: true, moved: true,
	}
	if same := s.dirty[m][key]; same != nil {
		same.state, same.guessed = nil, same.guessed && d.guessed
		s.expect(same, same.present || d.present)
		return nil
	}
	d.pk, d.key, d.row, d.stored, d.state = pk, key, row, true, nil
	s.dirty[m][key] = d
	return nil
}
