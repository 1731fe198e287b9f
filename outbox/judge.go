package outbox

import (
	"slices"
	"strings"

	"github.com/uptrace/bun/dialect"
)

// judgement is what a statement may do to registered tables, as far as its text tells. The judge allows what it knows
// (see rules) and denies all else.
//
// The text does not tell what the catalog makes of it: that a name is a view, a partition or a parent of a registered
// table; triggers, rules, foreign key actions, defaults, checks and policies; and functions behind an operator, a cast or
// a built-in name that somebody has overloaded for a type of his own.
type judgement struct {
	// writes lists the tables that it writes, registered or not, and those that it creates or drops.
	writes []write
	// denied says why it is not certain to leave other tables alone; "" where it is. verb is the statement's first word,
	// reach how far it may get.
	denied, verb string
	reach        reach
	// calls: it may call a function, or end up in one later (a cursor), so that rows may be other than what was written.
	calls bool
	// savepoint is the step that it takes; its verb is "" for all other statements.
	savepoint savepointStep
	// ends: it begins or ends a transaction by itself.
	ends bool
}

// write is one table that a statement changes. Bare names are upper case, quoted ones as they stand.
type write struct {
	verb   string
	schema string // "" where the text has none
	table  string
}

// rows says that the statement changes rows of the table, where CREATE and DROP change what its name means.
func (w write) rows() bool { return w.verb != "CREATE" && w.verb != "DROP" }

// savepointStep is SAVEPOINT name, ROLLBACK TO name (verb ROLLBACK) or RELEASE name. Equal names are the same savepoint.
type savepointStep struct{ verb, name string }

// reach is how far a denied statement may get. It matters outside RunInTx, where services change their schema.
type reach int

const (
	reachesNothing   reach = iota
	reachesSchema          // definitions, rights or settings, no rows
	reachesMentioned       // rows of tables whose names stand somewhere in the text
	reachesAny             // rows of any table
)

// judge reads the text of one statement, or of several.
func judge(query string, d dialect.Name) judgement {
	r := reader{lexer: newLexer(query, d)}
	count := 0
	for ; r.begin(); count++ {
		r.verb = r.cur.text
		r.statement()
	}
	if r.savepoint.verb != "" && count > 1 {
		r.deny(reachesSchema, "a savepoint stands in one text with other statements")
	}
	if r.unclear != "" {
		r.deny(r.unclearReach(), "its text cannot be read for certain: "+r.unclear)
	}
	r.judgement.verb = r.deniedVerb
	r.calls = r.calls || r.denied != ""
	return r.judgement
}

// unclearReach is how far a text may get that cannot be split for certain.
func (l *lexer) unclearReach() reach {
	if l.hides || mentions(l.sql, "EXECUTE") || mentions(l.sql, "CALL") {
		return reachesAny
	}
	return reachesMentioned
}

// mayChange says that a denied statement may change rows of the table, other than through its writes. It is the measure
// outside RunInTx: a schema change is no business of the box there.
func (j judgement) mayChange(query, table string) bool {
	return j.reach == reachesAny || j.reach == reachesMentioned && mentions(query, table)
}

// mentions looks for a table's name anywhere in the text, literals and comments included.
func mentions(query, table string) bool {
	query, table = strings.ToLower(query), strings.ToLower(table)
	if table == "" || strings.ContainsAny(table, "\"'`[]\\") {
		return true
	}
	for at := 0; ; {
		found := strings.Index(query[at:], table)
		if found < 0 {
			return false
		}
		from, to := at+found, at+found+len(table)
		if (from == 0 || !wordByte[query[from-1]]) && (to == len(query) || !wordByte[query[to]]) {
			return true
		}
		at = from + 1
	}
}

// refusal is the error for a denied statement.
func (j judgement) refusal() *RefusedError {
	return &RefusedError{Verb: j.verb, Reason: j.denied, Fix: "write rows by their primary key through bun, " + reportIt}
}

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

func (r *reader) at(words ...string) bool { return !r.cur.quoted && slices.Contains(words, r.cur.text) }

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

// startsWrite tells the verbs from clauses that use the same words, and from functions of the same names.
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

// verbs says that the current word is a verb of the database that changes rows, and no function of that name.
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

// beforeTarget holds the words that may stand between a verb and the name of its table. They can be names of tables in
// no dialect that uses them.
var beforeTarget = map[dialect.Name][]string{
	dialect.PG:     {"INTO", "FROM", "ONLY", "TABLE"},
	dialect.MySQL:  {"INTO", "FROM", "TABLE", "LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE"},
	dialect.SQLite: {"INTO", "FROM"},
}

// target reads the table that a verb writes. It ends at the token behind it.
func (r *reader) target(verb string) {
	if r.d == dialect.MySQL && (verb == "UPDATE" || verb == "DELETE") {
		r.joined(verb)
		return
	}
	for r.advance() {
		switch {
		case r.at(beforeTarget[r.d]...), r.cur.is("(") && r.prev.is("ONLY"):
		case r.d == dialect.SQLite && r.at("OR"):
			r.advance() // INSERT OR REPLACE
		case r.cur.name:
			r.qualified(verb)
			return
		default:
			r.deny(reachesMentioned, notPlain)
			return
		}
	}
	r.deny(reachesMentioned, notPlain)
}

const notPlain = "it does not name the table plainly that it writes"

// joined reads the tables of MariaDB's UPDATE and DELETE, which may be several: whatever stands where a table can.
func (r *reader) joined(verb string) {
	ends := []string{"SET"}
	if verb == "DELETE" {
		ends = []string{"WHERE", "ORDER", "LIMIT", "RETURNING"}
	}
	depth, expected, known := 0, true, len(r.writes)
	r.advance()
loop:
	for !r.ended {
		switch {
		case r.at("{"):
			r.deny(reachesMentioned, notPlain) // {OJ a JOIN b}
		case r.cur.is("("):
			if !expected {
				r.call()
			}
			depth, expected = depth+1, true
		case r.cur.is(")"):
			if depth, expected = depth-1, false; depth < 0 {
				break loop
			}
		case depth == 0 && r.at(ends...):
			break loop
		case r.cur.is(",") || r.at("JOIN", "STRAIGHT_JOIN", "USING") || r.at(beforeTarget[r.d]...):
			expected = true
		case r.cur.name && expected:
			expected = false
			r.qualified(verb)
			continue
		}
		r.advance()
	}
	if len(r.writes) == known {
		r.deny(reachesMentioned, notPlain)
	}
}

// keptName is how much of a name PostgreSQL looks at.
const keptName = 63

// qualified adds the table whose name begins here, and moves behind it.
func (r *reader) qualified(verb string) {
	w := write{verb: verb, table: r.cur.text}
	for r.advance() && r.cur.is(".") && r.peek(1)[0].name {
		r.advance()
		w.schema, w.table = w.table, r.cur.text
	}
	if r.d == dialect.PG && len(w.table) > keptName {
		r.deny(reachesAny, "PostgreSQL cuts the name of its table")
	}
	if w.ofCatalog() {
		r.deny(reachesSchema, "it writes a catalog of the database")
	}
	r.targetEnd = r.prev.end
	r.writes = append(r.writes, w)
}

// ofCatalog says that the table is the database's own. A setting is a row there, too (pg_settings).
func (w write) ofCatalog() bool {
	schema, table := strings.ToLower(w.schema), strings.ToLower(w.table)
	return schema == "pg_catalog" || schema == "information_schema" || schema == "mysql" ||
		strings.HasPrefix(table, "pg_") || strings.HasPrefix(table, "sqlite_")
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
	case bare && (clauses[f.text] || functions[f.text] && f.end == r.cur.start): // MariaDB: now () is not NOW()
	case r.before.is("AS") || r.before.is("WITH") || r.before.is("RECURSIVE"): // the columns of an alias or a query
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
	case !t.quoted && t.text != "" && strings.IndexByte(operatorBytes, t.text[0]) >= 0 && !operators[t.text]:
		r.calls = true
	}
}

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}

var (
	// clauses holds reserved words: a parenthesis behind one is no call.
	clauses = wordSet(`ALL AND ANY ARRAY AS CASE CHECK DISTINCT ELSE EXCEPT EXISTS FROM HAVING IN INTERSECT LATERAL LIMIT NOT
		OFFSET ON OR PRIMARY RETURNING SELECT SOME THEN UNION UNIQUE USING VALUES WHEN WHERE WITH
		CHAR DECIMAL NUMERIC VARCHAR`)
	// functions change nothing. None of them runs SQL that it is given as a text.
	functions = wordSet(`ABS AVG COALESCE CONCAT COUNT CURRENT_DATE CURRENT_TIMESTAMP CURRVAL DATE_TRUNC EXTRACT GREATEST
		GEN_RANDOM_UUID IFNULL LAST_INSERT_ID LAST_INSERT_ROWID LEAST LENGTH LOWER MAX MIN NEXTVAL NOW NULLIF
		PG_ADVISORY_LOCK PG_ADVISORY_XACT_LOCK PG_NOTIFY RANDOM REPLACE ROUND ROW_NUMBER SUBSTR SUBSTRING SUM TRIM UPPER UUID`)
	operators = wordSet("+ - * / % ^ = < > <= >= <> != || -> ->> #> #>> #- @> <@ ? ?| ?& && & | ~ ~* !~ !~*")
	types     = wordSet(`BIGINT BOOL BOOLEAN BYTEA CHAR CIDR DATE DECIMAL DOUBLE FLOAT FLOAT4 FLOAT8 INET INT INT2 INT4 INT8
		INTEGER INTERVAL JSON JSONB NUMERIC REAL SMALLINT TEXT TIME TIMESTAMP TIMESTAMPTZ TIMETZ UUID VARCHAR`)
)
