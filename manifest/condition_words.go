package manifest

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/uptrace/bun/dialect"
)

// word is a name, a text or an operator of a condition.
type word struct {
	text string
	kind wordKind
	call bool // a parenthesis follows
	at   int  // where it begins
}

type wordKind int

const (
	plainWord   wordKind = iota // a keyword, or a name without quotes
	quotedName                  // a name in quotes
	quotedText                  // a text
	anOperator                  // all else
	whatIsOneOf = "want one condition on the columns of the row, as it stands behind WHERE"
)

// wordsOf takes a condition apart, and refuses what is not one expression: it is put in parentheses
// into larger statements, which must not end in it or be swallowed by it.
func wordsOf(text string, name dialect.Name) ([]word, error) {
	s := wordScanner{rest: text, name: name, size: len(text)}
	for {
		s.rest = strings.TrimLeftFunc(s.rest, unicode.IsSpace)
		if s.rest == "" {
			break
		}
		if err := s.next(); err != nil {
			return nil, fmt.Errorf("%w, %s", err, whatIsOneOf)
		}
	}
	switch {
	case len(s.words) == 0:
		return nil, errors.New("it is empty, " + whatIsOneOf)
	case s.depth > 0:
		return nil, errors.New("a parenthesis is not closed, " + whatIsOneOf)
	}
	return s.words, nil
}

type wordScanner struct {
	rest  string
	name  dialect.Name
	size  int // of the whole text
	depth int
	words []word
}

func (s *wordScanner) add(n int, text string, kind wordKind) {
	s.words = append(s.words, word{text: text, kind: kind, at: s.size - len(s.rest)})
	s.rest = s.rest[n:]
}

func (s *wordScanner) next() error {
	c := s.rest[0]
	switch {
	case strings.HasPrefix(s.rest, "--"), strings.HasPrefix(s.rest, "/*"),
		c == '#' && s.name == dialect.MySQL:
		return fmt.Errorf("%.2q begins a comment", s.rest)
	case c == ';':
		return errors.New(`";" ends a statement`)
	case c == 0:
		return errors.New("it has the character 0")
	case c == '$', s.name != dialect.PG && strings.ContainsRune("?:@", rune(c)):
		return fmt.Errorf("%q stands for a value that is not there", string(c))
	case c == '\'' || c == '"' || c == '`' || c == '[' && s.name == dialect.SQLite:
		return s.quoted(c)
	case c == '_' || c >= 0x80 || unicode.IsLetter(rune(c)):
		n := strings.IndexFunc(s.rest, func(r rune) bool {
			return r != '_' && r < 0x80 && !unicode.IsLetter(r) && !unicode.IsDigit(r)
		})
		if n < 0 {
			n = len(s.rest)
		}
		s.add(n, s.rest[:n], plainWord)
	case c == '(':
		s.depth++
		if last := len(s.words) - 1; last >= 0 {
			s.words[last].call = true
		}
		s.add(1, "(", anOperator)
	case c == ')':
		if s.depth--; s.depth < 0 {
			return errors.New(`a ")" has no "("`)
		}
		s.add(1, ")", anOperator)
	default:
		s.add(1, s.rest[:1], anOperator)
	}
	return nil
}

// quoted reads what stands in quotes. A doubled quote is one, and in MariaDB's texts a backslash
// takes the next character along.
func (s *wordScanner) quoted(quote byte) error {
	end, kind := quote, quotedName
	if quote == '\'' || quote == '"' && s.name == dialect.MySQL {
		kind = quotedText
	}
	if quote == '[' {
		end = ']'
	}
	if last := len(s.words) - 1; quote == '\'' && s.name == dialect.PG && last >= 0 {
		if before := s.words[last]; strings.EqualFold(before.text, "e") || before.text == "&" {
			return errors.New("texts with escapes (E'…', U&'…') are not known here")
		}
	}
	var text strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '\\' && kind == quotedText && s.name == dialect.MySQL && i+1 < len(s.rest):
			i++
			text.WriteByte(s.rest[i])
		case c == end && end == quote && i+1 < len(s.rest) && s.rest[i+1] == end:
			i++
			text.WriteByte(c)
		case c == end:
			s.add(i+1, text.String(), kind)
			return nil
		default:
			text.WriteByte(c)
		}
	}
	return fmt.Errorf("the quote %c is not closed", quote)
}
