package outbox

import (
	"slices"
	"strings"

	"github.com/uptrace/bun/dialect"
)

// reader walks through the tokens of a text and fills in its judgement.
type reader struct {
	lexer
	judgement
	before, prev, cur token  // the last three tokens of the statement
	ended             bool   // cur is behind the statement
	verb              string // the first word of the statement
	deniedVerb        string
	targetEnd         int  // where the name of the last write ends: ( behind it is no call
	code              bool // verbs may stand anywhere, as between IF … THEN and END IF
}

// begin moves on to the first token of the next statement.
func (r *reader) begin() bool {
	for {
		t, more := r.next()
		if !more || !t.is(";") {
			r.before, r.prev, r.cur, r.ended = token{}, token{}, t, !more
			return more
		}
	}
}

// advance moves on to the statement's next token. At its end cur is empty, and advance is false.
func (r *reader) advance() bool {
	if r.ended {
		return false
	}
	t, more := r.next()
	if r.ended = !more || t.is(";"); r.ended {
		t = token{}
	}
	r.before, r.prev, r.cur = r.prev, r.cur, t
	return !r.ended
}

// peek returns the next n tokens without moving on.
func (r *reader) peek(n int) []token {
	ahead := r.lexer
	tokens := make([]token, n)
	for i := range tokens {
		tokens[i], _ = ahead.next()
	}
	return tokens
}

func (r *reader) at(words ...string) bool {
	return !r.cur.quoted && slices.Contains(words, r.cur.text)
}

// skip moves behind the words that are next.
func (r *reader) skip(words ...string) {
	for r.at(words...) && r.advance() {
	}
}

// drain moves to the end of the statement without looking.
func (r *reader) drain() {
	for r.advance() {
	}
}

func (r *reader) deny(reach reach, reason string) {
	if r.denied == "" {
		r.denied, r.deniedVerb = reason, r.verb
	}
	r.reach = max(r.reach, reach)
}

// scan looks for writes and calls up to the end of the statement.
func (r *reader) scan() {
	for !r.ended {
		switch {
		case r.startsWrite():
			r.target(r.cur.text)
			continue // with the token behind the names
		case r.at("INTO"):
			r.into()
			continue
		case r.cur.is("("):
			r.call()
		case r.code && r.at("EXECUTE", "CALL"):
			r.deny(reachesAny, unseenCode)
		case r.d == dialect.PG:
			r.operator()
		}
		if between := r.cur.is("(") || r.cur.is(","); between && r.skipLiterals() {
			r.cur = token{text: ","}
		}
		r.advance()
	}
}

const unseenCode = "it runs code that its text does not show"

// startsWrite tells the verbs from clauses that use the same words, and from functions of the same
// names.
func (r *reader) startsWrite() bool {
	if r.cur.quoted || r.prev.is(".") || !r.verbs() {
		return false
	}
	if r.code {
		return true
	}
	switch r.prev.text {
	case "FOR": // SELECT … FOR UPDATE
	case "DO": // ON CONFLICT DO UPDATE
		return r.prev.quoted || r.d == dialect.MySQL
	case "ON": // a foreign key's ON DELETE
	case "THEN": // a MERGE's WHEN MATCHED THEN UPDATE
	case "KEY":
		return r.prev.quoted || !r.before.is("NO") && !r.before.is("DUPLICATE")
	default:
		return true
	}
	return r.prev.quoted
}

// verbs says that the current word is a verb of the database that changes rows, and no function of
// that name.
func (r *reader) verbs() bool {
	called := func() bool { return r.peek(1)[0].is("(") }
	switch r.cur.text {
	case "UPDATE", "DELETE":
		return true
	case "MERGE":
		return r.d == dialect.PG || r.code
	case "INSERT":
		return r.d != dialect.MySQL || !called()
	case "REPLACE":
		return r.d != dialect.PG && !called()
	case "TRUNCATE", "COPY":
		return r.code && !called()
	}
	return false
}

// into reads the INTO of a SELECT, which makes a table on PostgreSQL, and that of LOAD DATA.
func (r *reader) into() {
	r.advance()
	switch r.d {
	case dialect.PG:
		r.skip("TEMP", "TEMPORARY", "LOCAL", "GLOBAL", "UNLOGGED", "TABLE")
		if r.cur.name {
			r.qualified("CREATE")
			return
		}
	case dialect.MySQL:
		if r.at("@", "OUTFILE", "DUMPFILE") {
			return
		}
		if r.at("TABLE") && r.advance() && r.cur.name {
			r.qualified("LOAD")
			return
		}
	}
	r.deny(reachesMentioned, notPlain)
}

// call looks at a parenthesis: whether a function is called.
func (r *reader) call() {
	f := r.prev
	bare := f.name && !f.quoted && !r.before.is(".")
	switch {
	case !f.name || f.end == r.targetEnd:
	case bare && clauses[f.text]:
	case bare && functions[f.text] && f.end == r.cur.start: // to MariaDB, now () is not NOW()
	case r.before.is("AS") || r.before.is("WITH") || r.before.is("RECURSIVE"): // columns
	default:
		r.calls = true
		if r.d == dialect.PG && upper(f.text) == "SET_CONFIG" {
			r.setConfig()
		}
	}
}

// setConfig allows what SET may set.
func (r *reader) setConfig() {
	ahead := r.peek(2)
	if name := ahead[0]; !name.quoted || name.name || !ahead[1].is(",") || !settable(name.text) {
		r.deny(reachesSchema, "it may set what changes the meaning of later statements")
	}
}

// operator looks for functions behind operators and casts of PostgreSQL that are none of its own.
func (r *reader) operator() {
	t := r.cur
	switch {
	case t.quoted && !t.name:
	case t.name && r.prev.is(":") && (t.quoted || !types[t.text]):
		r.calls = true
	case t.quoted || t.text == "" || strings.IndexByte(operatorBytes, t.text[0]) < 0:
	case !operators[t.text]:
		r.calls = true
	}
}
