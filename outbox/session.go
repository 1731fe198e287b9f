package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
)

// session is what one transaction did to registered models. It hangs, as a query hook, on a copy of the bun.DB that
// only this transaction uses: so it sees every statement of the transaction, whatever context the caller passes, and
// no statement of another connection.
type session struct {
	box *Box
	tx  bun.Tx

	mu       sync.Mutex
	dirty    map[*model]map[string]*mark
	owed     map[*model]*RefusedError // written under Explicit, not reported yet
	refused  error                    // the first refusal: the transaction must not commit, even if the caller ignored it
	flushing bool
	wrote    bool            // messages were appended
	appended *store.Appended // which ones, if a relay is to be handed them
}

// mark is one key that the transaction touched.
type mark struct {
	key      string
	pk       []byte // as instance_pk
	row      reflect.Value
	inserted bool            // the first thing that happened to it was an INSERT, so it was not there before
	state    json.RawMessage // the whole row as last written, nil if only a read can tell
}

func newSession(b *Box) *session {
	return &session{box: b, dirty: map[*model]map[string]*mark{}, owed: map[*model]*RefusedError{}}
}

// sessions finds the session by the transaction's private copy of the bun.DB.
var sessions sync.Map // *bun.DB → *session

func sessionOf(db *bun.DB) *session {
	if s, found := sessions.Load(db); found {
		return s.(*session) //nolint:forcetypeassert // nothing else is stored
	}
	return nil
}

type sessionKey struct{ box *Box }

// RunInTx runs fn in a transaction and, if fn returns nil, appends one message for every registered entity that the
// transaction changed, then commits. The rules of bun's RunInTx hold: an error from fn or a panic rolls back.
//
// Inside fn write with tx, through bun. What cannot be captured is refused with a [RefusedError]; after one, the
// transaction does not commit, also when fn ignores it.
//
// A RunInTx inside fn, with fn's context, is a savepoint of the same transaction: its messages leave with the
// outer commit. A serialization failure or deadlock is returned as the database reported it; [Box.RetryInTx] runs the
// transaction again.
func (b *Box) RunInTx(
	ctx context.Context, opts *sql.TxOptions, fn func(ctx context.Context, tx bun.Tx) error,
) error {
	if outer, nested := ctx.Value(sessionKey{b}).(*session); nested {
		return outer.tx.RunInTx(ctx, opts, func(_ context.Context, tx bun.Tx) error { return fn(ctx, tx) })
	}
	if err := b.ready(ctx); err != nil {
		return err
	}
	s := newSession(b)
	db := b.db.WithQueryHook(s)
	sessions.Store(db, s)
	defer sessions.Delete(db)

	if b.handover.Load() != nil {
		s.appended = &store.Appended{}
	}
	var before time.Time
	err := db.RunInTx(ctx, opts, func(ctx context.Context, tx bun.Tx) error {
		s.tx = tx
		if err := fn(context.WithValue(ctx, sessionKey{b}, s), tx); err != nil {
			return err
		}
		err := s.flush(ctx, tx)
		before = time.Now()
		return err
	})
	if err == nil && s.wrote {
		b.committed(s.appended.Offer(before))
	}
	return err
}

// Saved reports that the rows were inserted or updated by statements that bun did not capture. Each row is a pointer to
// a registered model, or a slice of them, and needs only its primary key: the flush reads the rest. The first revision
// of a reported row is 1, not 0, because it may have been there before cqrsync.
//
// In a transaction of [Box.RunInTx] the messages are appended before its commit. In any other bun.Tx they are appended
// at once, as a state of that moment: call it last, and once per transaction, because each call draws a revision.
func (b *Box) Saved(ctx context.Context, tx bun.Tx, rows ...any) error {
	return b.report(ctx, tx, rows)
}

// Deleted reports that the rows were deleted. It works like [Box.Saved]; whether a row is gone is read from the
// database either way.
func (b *Box) Deleted(ctx context.Context, tx bun.Tx, rows ...any) error {
	return b.report(ctx, tx, rows)
}

var errZeroTx = errors.New("outbox: the transaction is a zero bun.Tx: pass the one you write with")

func (b *Box) report(ctx context.Context, tx bun.Tx, rows []any) error {
	if tx.Tx == nil {
		return errZeroTx
	}
	if err := b.registrations(); err != nil { // not ready: the transaction may hold SQLite's only connection
		return err
	}
	s := sessionOf(tx.NewSelect().DB())
	foreign := s == nil || s.box != b
	if foreign {
		s = newSession(b)
	}
	for _, row := range rows {
		if err := s.reported(row); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	if !foreign {
		return nil
	}
	// Nobody tells when the caller commits; polling finds the messages.
	return s.flush(ctx, tx)
}

func (s *session) reported(row any) error {
	value := reflect.ValueOf(row)
	typ := reflect.TypeOf(row)
	for typ != nil && (typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice) {
		typ = typ.Elem()
	}
	m := s.box.modelOfType(typ)
	if m == nil {
		return fmt.Errorf("%T is not a registered model: pass a pointer to a registered struct, or a slice of them", row)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.owed, m)
	return eachRow(value, func(row reflect.Value) error {
		marked, err := s.mark(m, row, false, nil)
		if err == nil && !marked {
			err = fmt.Errorf("a %s without primary key was reported: set the key first", m.table.TypeName)
		}
		return err
	})
}

// eachRow calls fn for the struct behind value, or for each one in a slice.
func eachRow(value reflect.Value, fn func(reflect.Value) error) error {
	value = reflect.Indirect(value)
	if !value.IsValid() {
		return errors.New("a nil row was given: pass a pointer to the row")
	}
	if value.Kind() != reflect.Slice {
		return fn(value)
	}
	for i := range value.Len() {
		if err := eachRow(value.Index(i), fn); err != nil {
			return err
		}
	}
	return nil
}

// mark adds a row to the dirty set. A row that has no key yet is not marked. state is what the flush may send without
// reading; the last word counts.
func (s *session) mark(m *model, row reflect.Value, inserted bool, state json.RawMessage) (marked bool, err error) {
	pk, key, ok, err := m.keyOf(record{Value: row})
	if err != nil || !ok {
		return false, err
	}
	keys := s.dirty[m]
	if keys == nil {
		keys = map[string]*mark{}
		s.dirty[m] = keys
	}
	if known := keys[key]; known != nil {
		known.row, known.state = m.copyOf(row), state
	} else {
		keys[key] = &mark{key: key, pk: pk, row: m.copyOf(row), inserted: inserted, state: state}
	}
	return true, nil
}

// forgetStates makes the flush read everything: what was written before may have been undone.
func (s *session) forgetStates() {
	for _, marks := range s.dirty {
		for _, d := range marks {
			d.state = nil
		}
	}
}

// copyOf keeps what the flush needs of a row that a statement was given, because callers reuse their structs: the
// primary key, and the whole row where DELETE messages are made from it.
func (m *model) copyOf(row reflect.Value) reflect.Value {
	kept := reflect.New(m.table.Type).Elem()
	if m.deleteData != nil {
		kept.Set(row)
		return kept
	}
	for _, field := range m.table.PKs {
		field.Value(kept).Set(field.Value(row))
	}
	return kept
}
