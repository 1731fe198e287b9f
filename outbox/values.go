package outbox

import (
	"bytes"
	"database/sql"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// ValueError is returned by the commit of a row that holds a value replicas could not read. The
// error around it names the model, the key and the column. Nothing was committed.
type ValueError struct {
	// Reason says what is wrong with the value. It does not hold the value, which may be a secret.
	Reason string
	// Fix says what to write instead.
	Fix string
}

func (e *ValueError) Error() string { return "refused: " + e.Reason + "; " + e.Fix }

const (
	leaveOut = "or leave the column out (outbox.WithoutColumns; columns in cqrsync.yaml)"
	fixTime  = "write a time within them, or NULL for one without end, " + leaveOut
)

func checkTime(t time.Time) error {
	if err := envelope.CheckTime(t); err != nil {
		return &ValueError{err.Error(), fixTime}
	}
	return nil
}

// checkText refuses what JSON or a replica's database cannot hold. encoding/json would send invalid
// UTF-8 as U+FFFD, which is another text.
func checkText(text string) error {
	switch {
	case !utf8.ValidString(text):
		return &ValueError{"the text is not valid UTF-8",
			"use a []byte field, which travels as base64, " + leaveOut}
	case strings.IndexByte(text, 0) >= 0:
		return &ValueError{"the text has a NUL character, which replicas' databases do not store",
			"write it without, use a []byte field, which travels as base64, " + leaveOut}
	}
	return nil
}

// checkString refuses a NUL character in the text that a type makes of itself.
func checkString(text []byte) error {
	if text[0] != '"' || !bytes.Contains(text, []byte(`\u0000`)) {
		return nil
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	return checkText(s)
}

// checkMoment refuses the times of pgtype that time.Time does not have. It knows them by their
// fields, because the package is not linked.
func checkMoment(value any) error {
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Struct {
		return nil
	}
	if infinity := v.FieldByName("InfinityModifier"); infinity.IsValid() && !infinity.IsZero() {
		return &ValueError{"the time is infinite: replicas read the years 1 to 9999", fixTime}
	}
	held, hasTime := fieldOf[time.Time](v, "Time")
	valid, hasValid := fieldOf[bool](v, "Valid")
	if hasTime && hasValid && valid {
		return checkTime(held)
	}
	return nil
}

func fieldOf[T any](v reflect.Value, name string) (value T, found bool) {
	field := v.FieldByName(name)
	if !field.IsValid() || !field.CanInterface() {
		return value, false
	}
	value, found = field.Interface().(T)
	return value, found
}

// knowsItsText says that encoding/json does not write the type as the text it is.
func knowsItsText(typ reflect.Type) bool {
	return typ == reflect.TypeFor[json.Number]() ||
		typ.Implements(reflect.TypeFor[json.Marshaler]()) ||
		typ.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// What encoding/json writes where it replaces invalid UTF-8 (a U+FFFD that was there it does not
// escape), and how a time of the year 0 begins, which it writes and nobody reads.
var (
	replaced = []byte(`\ufffd`)
	yearZero = []byte(`"0000-`)
)

// checkMarshalled refuses a value of several parts that would not arrive as it is. It looks at the
// parts only where their JSON gives a reason to.
func checkMarshalled(value any, text []byte) error {
	if !utf8.Valid(text) { // from a type that writes its own JSON
		return checkText(string(text))
	}
	if !bytes.Contains(text, replaced) && !bytes.Contains(text, yearZero) {
		return nil
	}
	return checkParts(reflect.ValueOf(value), "")
}

// checkParts checks the texts and times within a value, at the path at.
func checkParts(v reflect.Value, at string) error {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() || !v.CanInterface() {
		return nil
	}
	var err error
	switch held := v.Interface().(type) {
	case time.Time:
		err = checkTime(held)
	case json.Marshaler: // was checked as a whole, and may write any escape
	case encoding.TextMarshaler:
		text, _ := held.MarshalText() // it has been marshalled before
		err = checkUTF8(string(text))
	default:
		return checkKind(v, at)
	}
	return within(at, err)
}

func checkKind(v reflect.Value, at string) error {
	switch v.Kind() {
	case reflect.String:
		return within(at, checkUTF8(v.String()))
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			name := fmt.Sprint(entries.Key())
			if err := checkUTF8(name); err != nil {
				return within(at, fmt.Errorf("a name: %w", err))
			}
			if err := checkParts(entries.Value(), at+"."+name); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for i := range v.Len() {
			if err := checkParts(v.Index(i), fmt.Sprintf("%s.%d", at, i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.Tag.Get("json") != "-" {
				if err := checkParts(v.Field(i), at+"."+field.Name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkUTF8 is checkText within JSON, which can say NUL.
func checkUTF8(text string) error {
	if utf8.ValidString(text) {
		return nil
	}
	return checkText(text)
}

func within(at string, err error) error {
	if err == nil || at == "" {
		return err
	}
	return fmt.Errorf("at %s: %w", strings.TrimPrefix(at, "."), err)
}

// named adds the key to the error of a row that could not be read.
func named(table *schema.Table, err error) error {
	var unread *stored.ScanError
	if !errors.As(err, &unread) {
		return err
	}
	refused := &ValueError{
		fmt.Sprintf("the database's value does not fit a %s", unread.Field.IndirectType),
		"give the field a type that holds it (types in cqrsync.yaml), " + leaveOut,
	}
	switch unread.Field.IndirectType {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[bun.NullTime](),
		reflect.TypeFor[sql.NullTime]():
		refused = &ValueError{"the database's value is not a time of the years 1 to 9999", fixTime}
	}
	err = fmt.Errorf("column %s: %w", unread.Field.Name, refused)
	if unread.Field.IsPK { // which is then not known
		return err
	}
	if _, key, keyErr := keyRead(table.PKs, unread.Row); keyErr == nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	return err
}
