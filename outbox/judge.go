package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

// judgement is what a statement may do to registered tables, as far as its text tells. The judge
// allows what it knows (see rules) and denies all else.
//
// The text does not tell what the catalog makes of it: that a name is a view, a partition or a
// parent of a registered table; triggers, rules, foreign key actions, defaults, checks and
// policies; and functions behind an operator, a cast or a built-in name that somebody has
// overloaded for a type of his own.
type judgement struct {
	// writes lists the tables that it writes, registered or not, and those that it creates or
	// drops.
	writes []write
	// denied says why it is not certain to leave other tables alone; "" where it is. reach is how
	// far it may get then, and verb the first word of what is denied, or else of the last
	// statement.
	denied, verb string
	reach        reach
	// calls: it may call a function, or end up in one later (a cursor), so that rows may be other
	// than what was written.
	calls bool
	// savepoint is the step that it takes; its verb is "" for all other statements.
	savepoint savepointStep
	// ends: it begins or ends a transaction by itself.
	ends bool
}

// write is one table that a statement changes. Bare names are upper case, quoted ones as they
// stand.
type write struct {
	verb   string
	schema string // "" where the text has none
	table  string
}

// rows says that the statement changes rows of the table, where CREATE and DROP change what its
// name means.
func (w write) rows() bool { return w.verb != "CREATE" && w.verb != "DROP" }

// savepointStep is SAVEPOINT name, ROLLBACK TO name (verb ROLLBACK) or RELEASE name. Equal names
// are the same savepoint.
type savepointStep struct{ verb, name string }

// reach is how far a denied statement may get. It matters outside RunInTx, where services change
// their schema.
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
	if r.judgement.verb = r.deniedVerb; r.denied == "" {
		r.judgement.verb = r.verb
	}
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

// mayChange says that a denied statement may change rows of the table, other than through its
// writes. It is the measure outside RunInTx: a schema change is no business of the box there.
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
	return &RefusedError{Verb: j.verb, Reason: j.denied,
		Fix: "write rows by their primary key through bun, " + reportIt}
}

// endsTx is the error for a statement that ends the transaction of RunInTx by itself.
func endsTx(j judgement) *RefusedError {
	return &RefusedError{Verb: j.verb, Reason: "it ends the transaction, and messages commit with it",
		Fix: "return from the function that RunInTx runs: nil commits, an error rolls back; use a " +
			"savepoint (tx.RunInTx) for a part; run what MariaDB commits for outside of RunInTx"}
}
