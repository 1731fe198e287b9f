package replica

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// decode reads a JSON value into dst by dst's Go type. It differs from json.Unmarshal where the
// wire format does: times are Python's str, decimals are numbers or strings, numbers never pass
// through float64 unless the type is a float, and the keys of an object are column names. null is
// the zero value.
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
			// No database of ours stores it, and bun would turn it into a syntax error that looks
			// curable.
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

// decodeSelf reads into a type that knows how to read itself, from the wire's form of the value or,
// where it does not accept that, from the other usual form.
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

// maxDigits is how many digits, or zeros by its exponent, a number may have for a type that reads
// itself: it may take time and memory that grow with them, or with their square.
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
