package outbox

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/cqrsync/cqrsync/internal/capture"
)

// mark is one key that the transaction touched.
type mark struct {
	key string
	pk  []byte // as instance_pk
	row reflect.Value
	// the first thing that happened to it was an INSERT, so it was not there before
	inserted bool
	// a statement left the row there: a flush that does not find it must not call it deleted
	present bool
	guessed bool // only statements that reported no row named it
	stored  bool // the key was read from the database, or has one spelling only
	// its row is not where a statement left it, and the box observes: nothing is known
	vanished bool
	moved    bool         // the database had its row under another spelling, which is marked, too
	said     capture.Said // by the transaction that wrote it, where it is swept
	state    *knownState  // the whole row as last written, nil if only a read can tell
}

// deed is what is known of what a statement did to a row.
type deed int

const (
	touched deed = iota // the row may be there or not
	created             // the statement made it
	written             // the statement left it there; it may have been there before
	removed             // the row is gone, as far as the statement tells
	// guessed: the database counted no row, and something in it may have put the row elsewhere.
	guessed
)

// formerMark is what a mark said before a statement.
type formerMark struct {
	mark    *mark
	present bool
}

// savepoint is one that the transaction can be rolled back to.
type savepoint struct {
	name    string
	history int   // its length
	doubt   error // as it was
}

// mark adds a row to the dirty set. A row that has no key yet is not marked. state is what the
// flush may send without reading; the last word counts.
func (s *session) mark(
	m *model, row reflect.Value, how deed, state *knownState,
) (marked bool, err error) {
	pk, key, ok, err := m.keyOf(record{Value: row})
	if err != nil || !ok {
		return false, err
	}
	s.markKey(m, &mark{key: key, pk: pk, row: m.copyOf(row), state: state}, how)
	return true, nil
}

// markKey is mark for a row whose key is known and whose columns nobody else changes.
func (s *session) markKey(m *model, d *mark, how deed) {
	keys := s.dirty[m]
	if keys == nil {
		keys = map[string]*mark{}
		s.dirty[m] = keys
	}
	known := keys[d.key]
	if known == nil {
		known = d
		known.inserted, known.guessed = how == created, how == guessed
		keys[d.key] = known
	} else {
		known.row, known.state = d.row, d.state
		known.guessed = known.guessed && how == guessed
	}
	switch how {
	case created, written:
		s.expect(known, true)
	case removed:
		s.expect(known, false)
	}
}

// expect notes whether the row of a mark must be there when the flush reads.
func (s *session) expect(d *mark, present bool) {
	if d.present == present {
		return
	}
	if len(s.points) > 0 {
		s.history = append(s.history, formerMark{d, d.present})
	}
	d.present = present
}

// doubtRows takes back what is certain of a model's rows: a statement that nobody followed may have
// changed any.
func (s *session) doubtRows(m *model) {
	for _, d := range s.dirty[m] {
		d.state = nil
		s.expect(d, false)
	}
}

// savepoint follows a statement that makes, ends or returns to a savepoint.
func (s *session) savepoint(step savepointStep) {
	switch step.verb {
	case "SAVEPOINT":
		s.points = append(s.points, savepoint{strings.ToUpper(step.name), len(s.history), s.doubt})
	case "RELEASE":
		if at := s.pointNamed(step.name); at >= 0 {
			s.points = s.points[:at]
		}
	case "ROLLBACK":
		s.rollBackTo(step.name)
	}
}

// pointNamed is the index of the newest savepoint of a name, or -1.
func (s *session) pointNamed(name string) int {
	for at := len(s.points) - 1; at >= 0; at-- {
		if s.points[at].name == strings.ToUpper(name) {
			return at
		}
	}
	return -1
}

// rollBackTo takes back what was written behind a savepoint, which itself stays. One that the
// session has not seen made leaves nothing certain.
func (s *session) rollBackTo(name string) {
	at := s.pointNamed(name)
	if at < 0 {
		for m := range s.dirty {
			s.doubtRows(m)
		}
		return
	}
	point := s.points[at]
	for i := len(s.history) - 1; i >= point.history; i-- {
		s.history[i].mark.present = s.history[i].present
	}
	s.history, s.points, s.doubt = s.history[:point.history], s.points[:at+1], point.doubt
	for _, marks := range s.dirty {
		for _, d := range marks {
			d.state = nil // of which statement it is, nothing tells
		}
	}
}

func (s *session) reported(row any, how deed) error {
	value := reflect.ValueOf(row)
	typ := reflect.TypeOf(row)
	for typ != nil && (typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice) {
		typ = typ.Elem()
	}
	m := s.box.modelOfType(typ)
	if m == nil {
		return fmt.Errorf("%T is not a registered model: pass a pointer to a registered struct, "+
			"or a slice of them", row)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed {
		return m.lateReport()
	}
	delete(s.owed, m)
	s.named[m] = true
	return eachRow(value, func(row reflect.Value) error {
		marked, err := s.mark(m, row, how, nil)
		if err == nil && !marked {
			err = fmt.Errorf("a %s without primary key was reported: set the key first",
				m.table.TypeName)
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

// copyOf keeps what the flush needs of a row that a statement was given, because callers reuse
// their structs: the primary key, and the whole row where DELETE messages are made from it.
func (m *model) copyOf(row reflect.Value) reflect.Value {
	kept := reflect.New(m.table.Type).Elem()
	if m.deleteData != nil {
		kept.Set(row)
	}
	for _, field := range m.table.PKs {
		field.Value(kept).Set(detached(field.Value(row)))
	}
	return kept
}

// detached copies a value with what it points to, so that a caller who reuses a pointer or a []byte
// does not change it.
func detached(value reflect.Value) reflect.Value {
	kept := reflect.New(value.Type()).Elem()
	kept.Set(value)
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			kept.Set(reflect.New(value.Type().Elem()))
			kept.Elem().Set(detached(value.Elem()))
		}
	case reflect.Slice:
		if value.IsNil() {
			break
		}
		kept.Set(reflect.MakeSlice(value.Type(), value.Len(), value.Len()))
		if value.Type().Elem().Kind() == reflect.Uint8 {
			reflect.Copy(kept, value)
			break
		}
		for i := range value.Len() {
			kept.Index(i).Set(detached(value.Index(i)))
		}
	case reflect.Array:
		for i := range value.Len() {
			kept.Index(i).Set(detached(value.Index(i)))
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if field := kept.Field(i); field.CanSet() {
				field.Set(detached(value.Field(i)))
			}
		}
	}
	return kept
}
