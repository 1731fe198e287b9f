package outbox

import (
	"iter"
	"strings"

	"github.com/uptrace/bun/dialect"
)

// token is a piece of SQL: a word, a quoted name, a text literal, a run of operator characters or
// another character. A bare word's ASCII letters are upper case; what was quoted keeps its letters.
type token struct {
	text       string
	quoted     bool // a quoted name or a literal
	name       bool // a word, or what may be a quoted name
	start, end int
}

func (t token) is(word string) bool { return t.text == word && !t.quoted }

// lex splits SQL as the dialect does, without comments.
func lex(sql string, d dialect.Name) iter.Seq[token] {
	return func(yield func(token) bool) {
		l := newLexer(sql, d)
		for t, more := l.next(); more && yield(t); t, more = l.next() {
		}
	}
}

// lexer splits a text into tokens. Where the database may split it at other places than the lexer
// does, it says why in unclear: whoever trusts the tokens must ask for that after the last one.
//
// It takes for granted what bun takes for granted when it writes literals:
// standard_conforming_strings is on, and sql_mode has no NO_BACKSLASH_ESCAPES.
type lexer struct {
	sql     string
	d       dialect.Name
	at      int
	escapes bool // the last token was an E'…'
	unclear string
	hides   bool // names may stand in it in letters that are not theirs
}

func newLexer(sql string, d dialect.Name) lexer {
	l := lexer{sql: sql, d: d}
	if strings.IndexByte(sql, 0) >= 0 {
		l.unclear = "a NUL byte may end the text"
	}
	return l
}

func (l *lexer) doubt(why string) {
	if l.unclear == "" {
		l.unclear = why
	}
}

// next returns the next token; more is false behind the last one.
func (l *lexer) next() (t token, more bool) {
	for l.at < len(l.sql) {
		start, c := l.at, l.sql[l.at]
		switch {
		case c <= ' ' || c == 0x7f:
			if c != ' ' && (c < '\t' || c > '\r') {
				l.doubt("it contains a control character")
			}
			l.at++
			continue
		case l.comment():
			continue
		case wordByte[c]:
			t = l.word()
		case c == '\'' || c == '"' || c == '`' && l.d != dialect.PG,
			c == '[' && l.d == dialect.SQLite:
			t = l.quote(false)
		case c == '$' && l.d != dialect.MySQL:
			t = l.dollar()
		case l.d == dialect.PG && strings.IndexByte(operatorBytes, c) >= 0:
			t = l.operator()
		default:
			if l.d == dialect.SQLite && strings.IndexByte("@#:", c) >= 0 {
				l.doubt("a parameter of SQLite may swallow what is behind it")
			}
			l.at++
			t.text = l.sql[start:l.at]
		}
		literal := t.quoted && !t.name
		if literal && l.escapes {
			l.doubt("a string goes on from an E'…' string")
		}
		l.escapes = literal && (c == 'E' || c == 'e')
		t.start, t.end = start, l.at
		return t, true
	}
	return token{}, false
}

var wordByte = func() (set [256]bool) {
	for c := range set {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
		set[c] = letter || c == '_' || c >= '0' && c <= '9'
	}
	return set
}()

// word reads a bare word or a number, and the E'…' string of PostgreSQL.
func (l *lexer) word() token {
	start := l.at
	for l.at < len(l.sql) && (wordByte[l.sql[l.at]] || l.sql[l.at] == '$') {
		l.at++
	}
	text, rest := l.sql[start:l.at], l.sql[l.at:]
	if strings.HasPrefix(text, "\ufeff") {
		l.doubt("a byte order mark is a space to some databases and a letter to others")
	}
	if l.d == dialect.PG {
		switch {
		case len(text) == 1 && text[0]|' ' == 'e' && strings.HasPrefix(rest, "'"):
			return l.quote(true)
		case len(text) == 1 && text[0]|' ' == 'u' && strings.HasPrefix(rest, `&"`):
			l.hides = true
			l.doubt(`a U&"…" name hides its letters`)
		case text[0] <= '9' && strings.Trim(text, "0123456789abcdefABCDEFxXoO_") != "":
			l.doubt("a number is followed by letters, which PostgreSQL may take for the next word")
		}
	}
	return token{text: upper(text), name: true}
}

// upper folds ASCII letters only. Folding others makes one name of two.
func upper(word string) string {
	for i := range len(word) {
		if word[i] < 'a' || word[i] > 'z' {
			continue
		}
		folded := []byte(word)
		for j, c := range folded[i:] {
			if c >= 'a' && c <= 'z' {
				folded[i+j] = c - 'a' + 'A'
			}
		}
		return string(folded)
	}
	return word
}

// quote reads the quoted text that starts here. backslash says that \ escapes inside it. Two things
// are a name or a literal, whichever fits: 'x' of SQLite, and "x" of MariaDB, where the sql_mode
// decides.
func (l *lexer) quote(backslash bool) token {
	quote := l.sql[l.at]
	t := token{quoted: true, name: quote != '\'' || l.d == dialect.SQLite}
	var inner string
	var closed bool
	switch {
	case quote == '[':
		inner, _, closed = strings.Cut(l.sql[l.at+1:], "]")
		l.at += len(inner) + 2
	case quote == '"' && l.d == dialect.MySQL:
		from := *l
		from.quoted(quote, true)
		if inner, closed = l.quoted(quote, false); from.at != l.at {
			l.doubt(`sql_mode ANSI_QUOTES decides what a backslash before " means`)
		}
	default:
		inner, closed = l.quoted(quote, backslash || quote == '\'' && l.d == dialect.MySQL)
	}
	if !closed {
		l.doubt("a quoted text does not end")
		l.at = len(l.sql)
	}
	if t.text = inner; t.name && quote != '[' && strings.IndexByte(inner, quote) >= 0 {
		t.text = strings.ReplaceAll(inner, string([]byte{quote, quote}), string(quote))
	}
	return t
}

// quoted moves behind the quoted text that starts here and returns what is between the quotes. A
// doubled quote stands for itself.
func (l *lexer) quoted(quote byte, backslash bool) (inner string, closed bool) {
	start := l.at + 1
	for at := start; at < len(l.sql); at++ {
		if !backslash { // then nothing but the quote matters
			skip := strings.IndexByte(l.sql[at:], quote)
			if skip < 0 {
				break
			}
			at += skip
		}
		switch {
		case l.sql[at] == '\\' && backslash:
			at++
		case l.sql[at] != quote:
		case at+1 < len(l.sql) && l.sql[at+1] == quote:
			at++
		default:
			l.at = at + 1
			return l.sql[start:at], true
		}
	}
	l.at = len(l.sql)
	return l.sql[start:], false
}

// dollar reads a dollar-quoted string of PostgreSQL, or the $ of a parameter.
func (l *lexer) dollar() token {
	tag := ""
	if l.d == dialect.PG {
		tag = dollarTag(l.sql[l.at:])
	} else {
		l.doubt("a parameter of SQLite may swallow what is behind it")
	}
	if tag == "" {
		l.at++
		return token{text: "$"}
	}
	inner, _, closed := strings.Cut(l.sql[l.at+len(tag):], tag)
	if l.at += len(inner) + 2*len(tag); !closed {
		l.doubt("a quoted text does not end")
		l.at = len(l.sql)
	}
	return token{text: inner, quoted: true}
}

// dollarTag returns the opening tag of a dollar-quoted string, $$ or $name$, or nothing.
func dollarTag(sql string) string {
	for j := 1; j < len(sql); j++ {
		switch {
		case sql[j] == '$':
			return sql[:j+1]
		case !wordByte[sql[j]] || j == 1 && sql[j] >= '0' && sql[j] <= '9':
			return ""
		}
	}
	return ""
}

const operatorBytes = "+-*/<>=~!@#%^&|`?"

// operator reads an operator as PostgreSQL does: a comment ends it, and one of several characters
// ends with + or - only if it holds a character that no operator of standard SQL has.
func (l *lexer) operator() token {
	start := l.at
	for l.at < len(l.sql) && strings.IndexByte(operatorBytes, l.sql[l.at]) >= 0 {
		if opensComment(l.sql[l.at:]) {
			break
		}
		l.at++
	}
	if !strings.ContainsAny(l.sql[start:l.at], "~!@#%^&|`?") {
		for l.at > start+1 && (l.sql[l.at-1] == '+' || l.sql[l.at-1] == '-') {
			l.at--
		}
	}
	return token{text: l.sql[start:l.at]}
}
