package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

func opensComment(sql string) bool {
	return strings.HasPrefix(sql, "--") || strings.HasPrefix(sql, "/*")
}

// comment moves behind the comment that starts here, if one does.
func (l *lexer) comment() bool {
	rest := l.sql[l.at:]
	switch {
	case strings.HasPrefix(rest, "/*"):
		l.blockComment()
	case strings.HasPrefix(rest, "--"):
		// To MariaDB, 1--1 is a subtraction.
		if l.d == dialect.MySQL && len(rest) > 2 && rest[2] > ' ' && rest[2] != 0x7f {
			return false
		}
		l.lineComment()
	case rest[0] == '#' && l.d == dialect.MySQL:
		l.lineComment()
	default:
		return false
	}
	return true
}

func (l *lexer) lineComment() {
	ends := "\n"
	if l.d == dialect.PG {
		ends = "\r\n"
	}
	if length := strings.IndexAny(l.sql[l.at:], ends); length >= 0 {
		l.at += length
		return
	}
	l.at = len(l.sql)
}

// blockComment moves behind a comment between /* and */. Only PostgreSQL nests them.
func (l *lexer) blockComment() {
	rest := strings.TrimPrefix(l.sql[l.at+2:], "M")
	if l.d == dialect.MySQL && strings.HasPrefix(rest, "!") {
		l.doubt("MariaDB runs what is in a /*! … */ comment")
	}
	depth := 1
	for l.at += 2; l.at+1 < len(l.sql); l.at++ {
		switch pair := l.sql[l.at : l.at+2]; {
		case pair == "*/":
			depth--
		case pair == "/*" && l.d == dialect.PG:
			depth++
		default:
			continue
		}
		if l.at++; depth == 0 {
			l.at++
			return
		}
	}
	l.doubt("a comment does not end")
	l.at = len(l.sql)
}

// skipLiterals moves behind literals, commas and parentheses, the rows of a bulk insert, and says
// whether it did. It makes no tokens, and leaves to next whatever is not plain.
func (l *lexer) skipLiterals() bool {
	start := l.at
	for l.at < len(l.sql) && !l.escapes {
		at := l.at
		switch c := l.sql[at]; {
		case c == ' ' || c == ',' || c == '(' || c == ')':
			l.at++
			continue
		case c == '\'':
			if _, closed := l.quoted('\'', l.d == dialect.MySQL); !closed {
				l.at = at
			}
		case c >= '0' && c <= '9':
			l.skipDigits()
		case c == '-':
			if l.at++; !l.skipDigits() {
				l.at = at
			}
		case c == 'N' || c == 'T' || c == 'F' || c == 'D':
			for _, word := range [...]string{"NULL", "TRUE", "FALSE", "DEFAULT"} {
				if strings.HasPrefix(l.sql[at:], word) {
					l.at += len(word)
				}
			}
		}
		goesOn := l.at < len(l.sql) && (wordByte[l.sql[l.at]] || l.sql[l.at] == '$')
		if l.at == at || goesOn && l.sql[at] != '\'' {
			l.at = at
			break
		}
	}
	return l.at > start
}

func (l *lexer) skipDigits() bool {
	at := l.at
	for l.at < len(l.sql) && (l.sql[l.at] >= '0' && l.sql[l.at] <= '9' || l.sql[l.at] == '.') {
		l.at++
	}
	return l.at > at
}
