package replica

import (
	"bytes"
	"database/sql"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cqrsync/cqrsync/envelope"
)

func decodeForm(target any, raw json.RawMessage) error {
	text, isScalar := scalarText(raw)
	if strings.IndexByte(text, 0) >= 0 {
		return errors.New("the string contains a NUL character")
	}
	if isTorn(raw, text) {
		return errTorn
	}
	switch target := target.(type) {
	case *time.Time:
		if raw[0] != '"' {
			return mismatch(raw, reflect.ValueOf(target).Elem())
		}
		t, err := envelope.ParseTime(text)
		*target = t
		return err
	case json.Unmarshaler:
		return target.UnmarshalJSON(raw)
	case encoding.TextUnmarshaler:
		if !isScalar {
			return mismatch(raw, reflect.ValueOf(target).Elem())
		}
		return target.UnmarshalText([]byte(text))
	default:
		return scan(target.(sql.Scanner), raw, text)
	}
}

// scan hands over what a database driver would: the type was written to read a column.
func scan(target sql.Scanner, raw json.RawMessage, text string) error {
	switch raw[0] {
	case '{', '[':
		return target.Scan([]byte(raw))
	case 't', 'f':
		return target.Scan(raw[0] == 't')
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && target.Scan(n) == nil {
		return nil
	}
	err := target.Scan(text)
	if err == nil {
		return nil
	}
	if t, timeErr := envelope.ParseTime(text); timeErr == nil {
		return target.Scan(t)
	}
	return err
}

// otherForm is the value as other writers put it: a time in RFC 3339, a number in a string, or a
// number out of one.
func otherForm(raw json.RawMessage) (json.RawMessage, bool) {
	text, ok := scalarText(raw)
	if !ok {
		return nil, false
	}
	if raw[0] != '"' {
		return strconv.AppendQuote(nil, text), true
	}
	if t, err := envelope.ParseTime(text); err == nil {
		return strconv.AppendQuote(nil, t.Format(time.RFC3339Nano)), true
	}
	var n json.Number
	isNumber := json.Unmarshal([]byte(text), &n) == nil && n != ""
	return json.RawMessage(text), isNumber
}

// scalarText is the content of a JSON string, or the literal of a number or boolean.
func scalarText(raw json.RawMessage) (text string, ok bool) {
	switch raw[0] {
	case '{', '[':
		return "", false
	case '"':
		if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
			return string(inner), true // what Unmarshal would say, in a fifth of the time
		}
		err := json.Unmarshal(raw, &text)
		return text, err == nil
	default:
		return string(raw), true
	}
}

var errTorn = errors.New("the string is not UTF-8: it has one half of a surrogate pair")

// isTorn says that a string has half of a surrogate pair, of which encoding/json makes U+FFFD.
func isTorn(raw json.RawMessage, text string) bool {
	const replacement = "\ufffd"
	made := strings.Count(text, replacement)
	if raw[0] != '"' || made == 0 {
		return false
	}
	written := bytes.Count(raw, []byte(replacement))
	// two characters each, so that a \\ hides none
	for _, escape := range escapes.FindAll(raw, -1) {
		if strings.EqualFold(string(escape), `\ufffd`) {
			written++
		}
	}
	return made > written
}

var escapes = regexp.MustCompile(`\\(u[0-9a-fA-F]{4}|.)`)

// mismatch names the types and not the value: errors end up in logs, and the value may be a secret.
func mismatch(raw json.RawMessage, dst reflect.Value) error {
	kind := "a number"
	switch raw[0] {
	case '{':
		kind = "an object"
	case '[':
		kind = "a list"
	case '"':
		kind = "a string"
	case 't', 'f':
		kind = "a boolean"
	}
	return fmt.Errorf("%s cannot be read as %s", kind, dst.Type())
}
