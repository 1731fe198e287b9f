package envelope

import (
	"bytes"
	"fmt"
	"math"
)

// Python writes floats that JSON cannot say as bare tokens, and reads them. In a Message they are null, so that Data
// is JSON to everybody; those that are fields of the instance are kept in NonFinite and written back, so that a
// message that is only passed on does not lose them.

var null = []byte("null")

const (
	nan         = "NaN"
	infinity    = "Infinity"
	negInfinity = "-Infinity"
)

// parseNonFinite says whether a value is one of the tokens.
func parseNonFinite(value []byte) (float64, bool) {
	switch string(value) {
	case nan:
		return math.NaN(), true
	case infinity:
		return math.Inf(1), true
	case negInfinity:
		return math.Inf(-1), true
	}
	return 0, false
}

func formatNonFinite(f float64) (token string, ok bool) {
	switch {
	case math.IsNaN(f):
		return nan, true
	case math.IsInf(f, 1):
		return infinity, true
	case math.IsInf(f, -1):
		return negInfinity, true
	}
	return "", false
}

// clean returns a value that s has read as compact JSON without the tokens: the value itself where s saw nothing to
// remove.
func (s *scanner) clean(value []byte) []byte {
	if !s.spaced && !s.nonFinite {
		return value
	}
	out := make([]byte, 0, len(value)+len(null))
	for len(value) > 0 {
		n := 1
		switch c := value[0]; {
		case c == '"':
			literal := scanner{src: value}
			_ = literal.skipString() // s has read it before
			n = literal.pos
			out = append(out, value[:n]...)
		case tokenLen(value) > 0:
			n = tokenLen(value)
			out = append(out, null...)
		case !isSpace(c):
			out = append(out, c)
		}
		value = value[n:]
	}
	return out
}

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

// appendNonFinite appends data, a valid compact object, with the tokens of fields in place of its nulls.
func appendNonFinite(dst, data []byte, fields map[string]float64) ([]byte, error) {
	written := make(map[string]bool, len(fields))
	s := scanner{src: data}
	copied := 0
	err := s.object(func(quoted []byte) error {
		start := s.pos
		value, err := s.value()
		if err != nil {
			return err
		}
		name := unquote(quoted)
		f, named := fields[name]
		if !named {
			return nil
		}
		token, ok := formatNonFinite(f)
		if !ok {
			return fmt.Errorf("NonFinite has %v for %q: a finite number belongs into Data", f, name)
		}
		if written[name] = bytes.Equal(value, null); written[name] {
			dst = append(dst, data[copied:start]...)
			dst = append(dst, token...)
			copied = s.pos
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range fields {
		if !written[name] {
			return nil, fmt.Errorf("NonFinite names %q, which is not null in Data", name)
		}
	}
	return append(dst, data[copied:]...), nil
}
