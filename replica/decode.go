package replica

import (
	"bytes"
	"database/sql"
	"encoding"
	"encoding/base64"
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

// decode reads a JSON value into dst by dst's Go type. It differs from json.Unmarshal where the wire format does:
// times are Python's str, decimals are numbers or strings, numbers never pass through float64 unless the type is a
// float, and the keys of an object are column names. null is the zero value.
func (s shapes) decode(dst reflect.Value, raw json.RawMessage) error {
	if isNull(raw, dst.Type()) {
		dst.SetZero()
		return nil
	}
	if dst.Kind() == reflect.Pointer {
		elem := reflect.New(dst.Type().Elem())
		if err := s.decode(elem.Elem(), raw); err != nil {
			return err
		}
		dst.Set(elem)
		return nil
	}
	if decodesItself(dst.Type()) {
		return decodeSelf(dst.Addr().Interface(), raw)
	}
	switch dst.Kind() {
	case reflect.Struct:
		return s.decodeStruct(dst, raw)
	case reflect.Slice:
		return s.decodeSlice(dst, raw)
	case reflect.Map:
		return s.decodeMap(dst, raw)
	case reflect.Interface, reflect.Array:
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		return d.Decode(dst.Addr().Interface())
	default:
		return decodeScalar(dst, raw)
	}
}

func (s shapes) decodeStruct(dst reflect.Value, raw json.RawMessage) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return mismatch(raw, dst)
	}
	for _, m := range s[dst.Type()] {
		value, ok := object[m.name]
		if !ok || m.isForeignKey(value) {
			continue
		}
		if err := s.decode(m.field.Value(dst), value); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

func (s shapes) decodeSlice(dst reflect.Value, raw json.RawMessage) error {
	if dst.Type().Elem().Kind() == reflect.Uint8 {
		text, _ := scalarText(raw)
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil || raw[0] != '"' {
			return fmt.Errorf("want base64 in a string for %s", dst.Type())
		}
		dst.SetBytes(data)
		return nil
	}
	var elems []json.RawMessage
	if err := json.Unmarshal(raw, &elems); err != nil {
		return mismatch(raw, dst)
	}
	list := reflect.MakeSlice(dst.Type(), len(elems), len(elems))
	for i, elem := range elems {
		if err := s.decode(list.Index(i), elem); err != nil {
			return fmt.Errorf("%d: %w", i, err)
		}
	}
	dst.Set(list)
	return nil
}

func (s shapes) decodeMap(dst reflect.Value, raw json.RawMessage) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return mismatch(raw, dst)
	}
	result := reflect.MakeMapWithSize(dst.Type(), len(object))
	for name, elem := range object {
		key, value := reflect.New(dst.Type().Key()).Elem(), reflect.New(dst.Type().Elem()).Elem()
		if key.Kind() != reflect.String {
			return fmt.Errorf("want a map with string keys, not %s", dst.Type())
		}
		key.SetString(name)
		if err := s.decode(value, elem); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		result.SetMapIndex(key, value)
	}
	dst.Set(result)
	return nil
}

func decodeScalar(dst reflect.Value, raw json.RawMessage) error {
	text, ok := scalarText(raw)
	isBool := raw[0] == 't' || raw[0] == 'f'
	if !ok || isBool != (dst.Kind() == reflect.Bool) {
		return mismatch(raw, dst)
	}
	var err error
	switch kind := dst.Kind(); {
	case isBool:
		dst.SetBool(text == "true")
	case dst.CanInt():
		var n int64
		n, err = strconv.ParseInt(text, 10, dst.Type().Bits())
		dst.SetInt(n)
	case dst.CanUint():
		var n uint64
		n, err = strconv.ParseUint(text, 10, dst.Type().Bits())
		dst.SetUint(n)
	case dst.CanFloat():
		var f float64
		f, err = strconv.ParseFloat(text, dst.Type().Bits())
		dst.SetFloat(f)
	case kind == reflect.String:
		if strings.IndexByte(text, 0) >= 0 {
			// No database of ours stores it, and bun would turn it into a syntax error that looks curable.
			return errors.New("the string contains a NUL character")
		}
		if isTorn(raw, text) {
			return errTorn
		}
		dst.SetString(text)
	default:
		return mismatch(raw, dst)
	}
	if err != nil {
		return fmt.Errorf("%s does not hold the value: %w", dst.Type(), errors.Unwrap(err))
	}
	return nil
}

// decodeSelf reads into a type that knows how to read itself, from the wire's form of the value or, where it does not
// accept that, from the other usual form.
func decodeSelf(target any, raw json.RawMessage) error {
	if isHugeNumber(raw) {
		return errors.New("a number beyond any database's")
	}
	err := decodeForm(target, raw)
	if err == nil {
		return nil
	}
	if other, ok := otherForm(raw); ok && decodeForm(target, other) == nil {
		return nil
	}
	return err
}

// maxDigits is how many digits, or zeros by its exponent, a number may have for a type that reads itself: it may take time and
// memory that grow with them, or with their square.
const maxDigits = 150_000

// isHugeNumber looks at numbers, and at strings that are one.
func isHugeNumber(raw json.RawMessage) bool {
	text := bytes.Trim(raw, `"`)
	mantissa, exponent, scientific := text, "", false
	for i, c := range text {
		switch {
		case c >= '0' && c <= '9', c == '.', i == 0 && (c == '-' || c == '+'):
			continue
		case (c == 'e' || c == 'E') && i > 0:
			mantissa, exponent, scientific = text[:i], string(text[i+1:]), true
		default:
			return false
		}
		break
	}
	if len(mantissa) > maxDigits {
		return true
	}
	if !scientific {
		return false
	}
	n, err := strconv.Atoi(exponent)
	return errors.Is(err, strconv.ErrRange) || n > maxDigits || n < -maxDigits
}

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

// otherForm is the value as other writers put it: a time in RFC 3339, a number in a string, or a number out of one.
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
	for _, escape := range escapes.FindAll(raw, -1) { // two characters each, so that a \\ hides none
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
