package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// KeyOf returns the text of a primary key by which ledgers, lanes and diffs know it: a string
// itself, the digits of a number as they stand, true or false, and for a composite key the JSON
// array of its parts, compact and with strings in one spelling. Null, the empty string, objects and
// nested arrays are no keys.
func KeyOf(pk json.RawMessage) (string, error) {
	s := scanner{src: pk}
	value, err := s.whole()
	switch {
	case len(pk) == 0:
		return "", errMissing
	case err != nil:
		return "", fmt.Errorf("not JSON: %w", err)
	case len(value) > 0 && value[0] == '[':
		return compositeKey(value)
	}
	key, err := keyPart(value)
	if err == nil && key == "" {
		err = errors.New("want a key, got an empty string")
	}
	return key, err
}

func compositeKey(array []byte) (string, error) {
	key := append(make([]byte, 0, len(array)), '[')
	s := scanner{src: array}
	err := s.array(func(element []byte) error {
		part, err := keyPart(element)
		if err != nil {
			return fmt.Errorf("composite key: %w", err)
		}
		if len(key) > 1 {
			key = append(key, ',')
		}
		if element[0] == '"' {
			key = appendQuoted(key, part)
		} else {
			key = append(key, part...)
		}
		return nil
	})
	if err == nil && len(key) == 1 {
		err = errors.New("want a key, got an empty array")
	}
	if err != nil {
		return "", err
	}
	return string(append(key, ']')), nil
}

// keyPart is the text of a primary key column.
func keyPart(value []byte) (string, error) {
	if IsNonFinite(value) || value[0] == '{' || value[0] == '[' || bytes.Equal(value, null) {
		return "", fmt.Errorf("want a string, a number or a boolean, got %s", kind(value))
	}
	if value[0] != '"' {
		return string(value), nil
	}
	text := unquote(value)
	if strings.IndexByte(text, 0) >= 0 {
		return "", errors.New("want a key, got a string with a NUL character, which databases do " +
			"not store")
	}
	return text, nil
}

// CheckModel says what is wrong with a CQRS id, or nil. It is a routing key, where a dot separates
// words, and part of cqrs.<queue>.<id>.
func CheckModel(id string) error {
	const maxLen = 200 // a routing key has 255 bytes, the queue name needs some
	if id == "" {
		return errors.New("empty")
	}
	if len(id) > maxLen {
		return fmt.Errorf("%.40q… has %d bytes, at most %d are allowed", id, len(id), maxLen)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return fmt.Errorf("%q: use letters, digits, _ and -", id)
		}
	}
	return nil
}
