package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Python writes floats that JSON cannot say as bare tokens, and reads them. In a Message they are
// null, so that Data is JSON to everybody; the fields of the instance that have some are kept in
// NonFinite as they were written, and are written back, so that a message that is only passed on
// does not lose them.

var null = []byte("null")

// The tokens.
const (
	nan         = "NaN"
	infinity    = "Infinity"
	negInfinity = "-Infinity"
)

// IsNonFinite says that a value is one of the tokens NaN, Infinity and -Infinity.
func IsNonFinite(value []byte) bool {
	switch string(value) {
	case nan, infinity, negInfinity:
		return true
	}
	return false
}

// HasNonFinite says that a JSON value is one of the tokens, or has one within it.
func HasNonFinite(value json.RawMessage) bool {
	if !mayHaveTokens(value) {
		return false
	}
	s := scanner{src: value}
	_, err := s.whole()
	return err == nil && s.nonFinite
}

// Finite returns a JSON value, compact, with null in place of the tokens; one without them as it
// is.
func Finite(value json.RawMessage) json.RawMessage {
	return replaced(value, func([]byte) []byte { return null })
}

// Quoted returns a JSON value, compact, with strings in place of the tokens, "NaN" for NaN; one
// without them as it is. So any reader of JSON can look into it.
func Quoted(value json.RawMessage) json.RawMessage {
	return replaced(value, func(token []byte) []byte { return []byte(`"` + string(token) + `"`) })
}

func replaced(value json.RawMessage, by func(token []byte) []byte) json.RawMessage {
	if !HasNonFinite(value) {
		return value
	}
	return compact(value, by)
}

// mayHaveTokens looks for their letters, which may also stand in a string: nearly no value has
// them.
func mayHaveTokens(value []byte) bool {
	return bytes.Contains(value, []byte(nan)) || bytes.Contains(value, []byte(infinity))
}

// clean returns a value that s has read as compact JSON without the tokens: the value itself where
// s saw nothing to remove.
func (s *scanner) clean(value []byte) []byte {
	if !s.spaced && !s.nonFinite {
		return value
	}
	return compact(value, func([]byte) []byte { return null })
}

// compact returns a valid value without the space between its tokens, and with something else for
// NaN and the infinities.
func compact(value []byte, instead func(token []byte) []byte) []byte {
	out := make([]byte, 0, len(value)+len(null))
	for len(value) > 0 {
		n := 1
		switch c := value[0]; {
		case c == '"':
			literal := scanner{src: value}
			_ = literal.skipString() // it is valid
			n = literal.pos
			out = append(out, value[:n]...)
		case tokenLen(value) > 0:
			n = tokenLen(value)
			out = append(out, instead(value[:n])...)
		case !isSpace(c):
			out = append(out, c)
		}
		value = value[n:]
	}
	return out
}

func asWritten(token []byte) []byte { return token }

// tokenLen is the length of the token that s starts with, 0 if there is none.
func tokenLen(s []byte) int {
	if s[0] != 'N' && s[0] != 'I' && s[0] != '-' {
		return 0
	}
	for _, token := range [...]string{nan, infinity, negInfinity} {
		if bytes.HasPrefix(s, []byte(token)) {
			return len(token)
		}
	}
	return 0
}

// valueWithTokens reads a value, and returns it once more, compact, where it has tokens.
func (s *scanner) valueWithTokens() (value, tokens []byte, err error) {
	before := s.nonFinite
	s.nonFinite = false
	value, err = s.value()
	if err == nil && s.nonFinite {
		tokens = compact(value, asWritten)
	}
	s.nonFinite = s.nonFinite || before
	return value, tokens, err
}

// NonFinite are the members of an object that have NaN or an infinity in them, each as the wire has
// it: NaN, or [1.5,-Infinity]. The object itself has null in the place of each token.
type NonFinite map[string]json.RawMessage

// check refuses what is no value with tokens.
func (n NonFinite) check(name string) ([]byte, error) {
	s := scanner{src: n[name]}
	value, err := s.whole()
	switch {
	case err != nil || len(n[name]) == 0:
		return nil, fmt.Errorf("NonFinite has no value for %q", name)
	case !s.nonFinite:
		return nil, fmt.Errorf("NonFinite has %.40s for %q: a finite value belongs into the object",
			value, name)
	}
	return compact(value, asWritten), nil
}

// in is data, a valid compact object, with what n has in place of its members.
func (n NonFinite) in(data []byte) ([]byte, error) {
	dst := make([]byte, 0, len(data)+len(negInfinity)*len(n))
	written := make(map[string]bool, len(n))
	s := scanner{src: data}
	copied := 0
	err := s.object(func(quoted []byte) error {
		start := s.pos
		value, err := s.value()
		if err != nil {
			return err
		}
		name := unquote(quoted)
		if _, named := n[name]; !named {
			return nil
		}
		tokens, err := n.check(name)
		if err != nil {
			return err
		}
		finite := compact(tokens, func([]byte) []byte { return null })
		// PostgreSQL's triggers leave the spaces that its JSON columns have.
		if written[name] = bytes.Equal(compact(value, asWritten), finite); written[name] {
			dst = append(dst, data[copied:start]...)
			dst = append(dst, tokens...)
			copied = s.pos
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range n {
		if !written[name] {
			return nil, fmt.Errorf("NonFinite names %q, for which the object does not have null",
				name)
		}
	}
	return append(dst, data[copied:]...), nil
}
