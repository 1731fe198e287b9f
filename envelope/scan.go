package envelope

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// scanner validates JSON in one pass and hands out the text of its values, uncopied. It exists
// because encoding/json has no way to take a message apart without validating and copying the parts
// again, and refuses the bare NaN, Infinity and -Infinity that Python writes. Those apart it
// accepts exactly what json.Valid accepts (FuzzScanner).
type scanner struct {
	src   []byte
	pos   int
	depth int

	spaced    bool // there was white space between tokens
	nonFinite bool // there was a bare NaN, Infinity or -Infinity
}

// maxDepth is encoding/json's own limit: deeper nesting could be accepted here and then not be
// unmarshalled.
const maxDepth = 10000

// peek returns the byte at the current position, or 0, which no token starts with, at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.src) {
		return s.src[s.pos]
	}
	return 0
}

func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) skipSpace() {
	for s.pos < len(s.src) && isSpace(s.src[s.pos]) {
		s.pos++
		s.spaced = true
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// whole reads src as one value with nothing but white space around it.
func (s *scanner) whole() ([]byte, error) {
	s.skipSpace()
	value, err := s.value()
	if err != nil {
		return nil, err
	}
	return value, s.end()
}

// end checks that nothing but white space follows.
func (s *scanner) end() error {
	if s.skipSpace(); s.pos < len(s.src) {
		return s.unexpected("the end")
	}
	return nil
}

// value reads the value at the current position and returns its text.
func (s *scanner) value() ([]byte, error) {
	start := s.pos
	err := s.skipValue()
	return s.src[start:s.pos:s.pos], err
}

func (s *scanner) skipValue() error {
	switch c := s.peek(); c {
	case '{':
		return s.object(nil)
	case '[':
		return s.array(nil)
	case '"':
		return s.skipString()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case 'N':
		s.nonFinite = true
		return s.literal("NaN")
	case 'I':
		s.nonFinite = true
		return s.literal("Infinity")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	default:
		return s.unexpected("a value")
	}
}

// object reads an object. It calls visit for every member, with the name as written (quotes
// included) and the position at the value, which visit must read. A nil visit skips.
func (s *scanner) object(visit func(name []byte) error) error {
	if err := s.open('{'); err != nil {
		return err
	}
	if s.accept('}') {
		s.depth--
		return nil
	}
	for {
		start := s.pos
		if err := s.skipString(); err != nil {
			return err
		}
		name := s.src[start:s.pos]
		if s.skipSpace(); !s.accept(':') {
			return s.unexpected("':'")
		}
		s.skipSpace()
		if err := s.member(name, visit); err != nil {
			return err
		}
		if more, err := s.next('}', "',' or '}'"); !more {
			return err
		}
	}
}

func (s *scanner) member(name []byte, visit func(name []byte) error) error {
	if visit == nil {
		return s.skipValue()
	}
	return visit(name)
}

// array reads an array. It calls visit with every element; a nil visit skips.
func (s *scanner) array(visit func(element []byte) error) error {
	if err := s.open('['); err != nil {
		return err
	}
	if s.accept(']') {
		s.depth--
		return nil
	}
	for {
		element, err := s.value()
		if err == nil && visit != nil {
			err = visit(element)
		}
		if err != nil {
			return err
		}
		if more, err := s.next(']', "',' or ']'"); !more {
			return err
		}
	}
}

func (s *scanner) open(bracket byte) error {
	if !s.accept(bracket) {
		return s.unexpected(fmt.Sprintf("%q", bracket))
	}
	if s.depth++; s.depth > maxDepth {
		return fmt.Errorf("byte %d: nested deeper than %d", s.pos, maxDepth)
	}
	s.skipSpace()
	return nil
}

// next moves behind the comma after a member or element, or behind the bracket that closes the last
// one.
func (s *scanner) next(bracket byte, want string) (more bool, err error) {
	s.skipSpace()
	switch {
	case s.accept(','):
		s.skipSpace()
		return true, nil
	case s.accept(bracket):
		s.depth--
		return false, nil
	default:
		return false, s.unexpected(want)
	}
}

func (s *scanner) literal(text string) error {
	if !bytes.HasPrefix(s.src[s.pos:], []byte(text)) {
		return s.unexpected("a value")
	}
	s.pos += len(text)
	return nil
}

// maxNumber is how many characters a number may have: more than any database's (PostgreSQL's
// numeric has 131,072 digits before the point and 16,383 behind it). Whoever converts one takes
// time that grows with the square of its length.
const maxNumber = 150_000

func (s *scanner) number() error {
	start := s.pos
	err := s.anyNumber()
	if n := s.pos - start; err == nil && n > maxNumber {
		return fmt.Errorf("byte %d: a number of %d characters: want at most %d", start, n,
			maxNumber)
	}
	return err
}

func (s *scanner) anyNumber() error {
	if s.accept('-') && s.peek() == 'I' {
		s.nonFinite = true
		return s.literal("Infinity")
	}
	if !s.accept('0') && !s.digits() {
		return s.unexpected("a digit")
	}
	if s.accept('.') && !s.digits() {
		return s.unexpected("a digit")
	}
	if s.accept('e') || s.accept('E') {
		_ = s.accept('+') || s.accept('-')
		if !s.digits() {
			return s.unexpected("a digit")
		}
	}
	return nil
}

// digits skips digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.src) && s.src[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.src) {
		return fmt.Errorf("byte %d: it ends where %s should be", s.pos, want)
	}
	r, _ := utf8.DecodeRune(s.src[s.pos:])
	return fmt.Errorf("byte %d: %q where %s should be", s.pos, r, want)
}

// kind names what a valid value is, for messages.
func kind(value []byte) string {
	if IsNonFinite(value) {
		return string(value)
	}
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
