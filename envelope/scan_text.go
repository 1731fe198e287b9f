package envelope

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strings"
)

func (s *scanner) skipString() error {
	if !s.accept('"') {
		return s.unexpected("'\"'")
	}
	for i := s.pos + plainLen(s.src[s.pos:]); i < len(s.src); i += 1 + plainLen(s.src[i+1:]) {
		switch c := s.src[i]; {
		case c == '"':
			s.pos = i + 1
			return nil
		case c == '\\':
			n := escapeLen(s.src[i+1:])
			if n == 0 {
				s.pos = i
				return s.unexpected("a JSON escape")
			}
			i += n
		case c < ' ':
			s.pos = i
			return s.unexpected("an escape for a control character")
		}
	}
	s.pos = len(s.src)
	return s.unexpected("the end of a string")
}

// plainLen is how many bytes there are before a quote, a backslash or a control character. It looks
// at eight at a time, and may stop before the last eight.
func plainLen(s []byte) (n int) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(s)-n >= 8; n += 8 {
		word := binary.LittleEndian.Uint64(s[n:])
		quote, backslash := word^ones*'"', word^ones*'\\'
		// A byte's highest bit is set if it is below what is taken from it. A borrow makes that
		// wrong only behind one that is.
		found := ((quote-ones)&^quote | (backslash-ones)&^backslash | (word-ones*' ')&^word) & highs
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	return n
}

// escapeLen is the length of the escape after a backslash, 0 if there is none.
func escapeLen(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	switch s[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(s) >= 5 && isHex(s[1]) && isHex(s[2]) && isHex(s[3]) && isHex(s[4]) {
			return 5
		}
	}
	return 0
}

func isHex(c byte) bool { return c-'0' <= 9 || c|' ' >= 'a' && c|' ' <= 'f' }

// unquote returns what a valid string literal says.
func unquote(literal []byte) string {
	if bytes.IndexByte(literal, '\\') < 0 {
		return string(literal[1 : len(literal)-1])
	}
	var s string
	_ = json.Unmarshal(literal, &s) // a valid literal always can be
	return s
}

// memberName returns what unquote would, without a copy where nothing is escaped.
func memberName(literal []byte) []byte {
	if bytes.IndexByte(literal, '\\') < 0 {
		return literal[1 : len(literal)-1]
	}
	return []byte(unquote(literal))
}

// appendQuoted writes s as the JSON string of RFC 8785, of which every text has exactly one.
func appendQuoted(dst []byte, s string) []byte {
	const short, letters, hex = "\"\\\b\t\n\f\r", `"\btnfr`, "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		c := s[i]
		if at := strings.IndexByte(short, c); at >= 0 {
			dst = append(dst, '\\', letters[at])
		} else if c < ' ' {
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xF])
		} else {
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
