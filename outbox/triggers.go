package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// This file is the Go side of the capture by triggers. On a table that has them the database itself
// notes every row that is written, so a session need not read statements: it asks for the notes
// before the commit.

// Triggers has the database capture the model's table, and the tables of its relations: then no
// write is missed, whoever makes it, and raw SQL is as good as any other statement. [Box.Migrate]
// puts the triggers in place, on tables that are there; its role needs the right to make them.
// [Box.Check] says whether they are.
//
// A transaction of [Box.RunInTx] sends what it wrote before it commits. What other programs write
// is noted with their commit, and sent by [Box.RunSweep].
func Triggers() Option {
	return func(m *model) error { m.triggers = true; return nil }
}

// captures is what the catalog says of triggers.
type captures struct {
	standing capture.Standing
	keeps    bool // there is a table of marks that are swept
	at       time.Time
}

// capturesFor is how long the catalog's word on triggers is taken. A transaction that relies on
// triggers which are gone since does not commit.
const capturesFor = time.Minute

func (b *Box) capture() *capture.Capture {
	return capture.New(b.db, capture.Names{Schema: b.schema, Prefix: b.prefix})
}

// askTriggers reads which tables have triggers, once in a while, outside of transactions.
func (b *Box) askTriggers(ctx context.Context) error {
	if c := b.captures.Load(); c != nil && time.Since(c.at) < capturesFor {
		return nil
	}
	standing, err := b.capture().Standing(ctx)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	keeps, err := b.capture().Keeps(ctx)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	b.captures.Store(&captures{standing, keeps, time.Now()})
	return nil
}

// captured says that triggers see each row that is written to a table, for a model.
func (b *Box) captured(m *model, table tableName) bool {
	c := b.captures.Load()
	return c != nil && slices.ContainsFunc(c.standing[m.id], func(name string) bool {
		schema, bare := "", name
		if at := strings.LastIndexByte(name, '.'); at >= 0 {
			schema, bare = name[:at], name[at+1:]
		}
		return table.may(write{schema: schema, table: bare})
	})
}

func (b *Box) hasTriggers(m *model) bool { return b.captured(m, registeredName(m)) }

// isCaptured says that triggers see the rows of a related table for the entities they belong to.
func (b *Box) isCaptured(r related) bool {
	return b.captured(r.parent, registeredName(&model{table: r.table}))
}

// capturedModels lists those that have triggers.
func (b *Box) capturedModels() []*model {
	if c := b.captures.Load(); c == nil || len(c.standing) == 0 {
		return nil
	}
	return slices.DeleteFunc(b.models(), func(m *model) bool { return !b.hasTriggers(m) })
}

// capturesAll says that whatever a statement writes of the registered tables, triggers see it.
func (b *Box) capturesAll() bool {
	models := b.models()
	if len(b.capturedModels()) != len(models) {
		return false
	}
	for _, m := range models {
		if slices.ContainsFunc(m.relatedTables(), func(r related) bool { return !b.isCaptured(r) }) {
			return false
		}
	}
	return true
}

// installTriggers puts the triggers of the models in place that ask for them.
func (b *Box) installTriggers(ctx context.Context) error {
	var models []capture.Model
	var errs []error
	for _, m := range b.models() {
		if m.triggers {
			c, err := m.captureModel(ctx)
			models, errs = append(models, c), append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil || len(models) == 0 {
		return err
	}
	if err := b.capture().Install(ctx, models); err != nil {
		return fmt.Errorf("install triggers (without the right to, leave outbox.Triggers out): %w", err)
	}
	b.captures.Store(nil)
	return b.askTriggers(ctx)
}

// checkTriggers says what is wrong with them.
func (b *Box) checkTriggers(ctx context.Context) error {
	var errs []error
	for _, m := range b.models() {
		if !m.triggers {
			continue
		}
		c, err := m.captureModel(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found, err := b.capture().Check(ctx, []capture.Model{c})
		errs = append(errs, err)
		for _, f := range found {
			errs = append(errs, fmt.Errorf("%s: call Box.Migrate with a role that may make triggers", f))
		}
	}
	return errors.Join(errs...)
}

// watch notes that a statement writes tables whose triggers mark.
func (s *session) watch(models []*model) {
	for _, m := range models {
		if s.watched == nil {
			s.watched = map[*model]bool{}
		}
		s.watched[m] = true
	}
}

// takeMarks adds what the triggers marked to the dirty set. A table that was written and has no
// mark has lost its triggers since they were seen.
func (s *session) takeMarks(ctx context.Context, tx bun.IDB) error {
	models := s.box.capturedModels()
	if len(models) == 0 || s.tx.Tx == nil {
		return nil
	}
	ids := make([]string, len(models))
	for i, m := range models {
		ids[i] = m.id
	}
	marks, err := s.box.capture().Take(context.WithValue(ctx, flushKey{}, s), tx, ids, s.newest)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	s.deferredRan = true // before the marks were taken
	if err := s.addMarks(ctx, tx, marks); err != nil {
		return err
	}
	for m := range s.watched {
		if !slices.ContainsFunc(marks, func(mark capture.Mark) bool { return mark.Model == m.id }) {
			s.box.captures.Store(nil)
			return fmt.Errorf("outbox: rows of %s were written, and its triggers marked none: "+
				"they were removed or disabled (relay capture check, or Box.Check, says which)",
				m.table.Name)
		}
	}
	return nil
}

// addMarks makes marks of the session of those of triggers.
func (s *session) addMarks(ctx context.Context, tx bun.IDB, marks []capture.Mark) error {
	byModel := map[string][]capture.Mark{}
	for _, mark := range marks {
		byModel[mark.Model] = append(byModel[mark.Model], mark)
	}
	for id, marks := range byModel {
		m, err := s.box.modelOfID(id)
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		key := m.keyParts()
		pks := make([]json.RawMessage, len(marks))
		for i, mark := range marks {
			pks[i] = mark.PK(key)
		}
		rows, err := m.rowsOfPKs(ctx, tx, pks)
		if err != nil {
			return err
		}
		s.mu.Lock()
		for i, row := range rows {
			pk, key, _, err := m.keyOf(record{Value: row, nulls: stored.Nulls{}})
			if err != nil {
				s.mu.Unlock()
				return err
			}
			d := &mark{key: key, pk: pk, row: row, stored: true, said: marks[i].Said}
			how := written
			switch {
			case marks[i].Touched:
				how = touched
			case marks[i].Gone:
				how = removed
			case marks[i].Inserted:
				how = created
			}
			if marks[i].Inserted && how == removed {
				s.markKey(m, d, created)
			}
			s.markKey(m, d, how)
			s.dirty[m][d.key].state, s.dirty[m][d.key].said = nil, d.said
		}
		s.mu.Unlock()
	}
	return nil
}

// keyParts says which columns of the key are numbers in a text of it.
func (m *model) keyParts() []capture.Column {
	columns := make([]capture.Column, len(m.table.PKs))
	for i, pk := range m.table.PKs {
		kind := capture.Text
		if k := pk.IndirectType.Kind(); k >= reflect.Int && k <= reflect.Uint64 {
			kind = capture.Integer
		}
		columns[i] = capture.Column{Name: pk.Name, Kind: kind}
	}
	return columns
}
