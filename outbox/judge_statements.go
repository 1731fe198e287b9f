package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

// analyze reads MariaDB's ANALYZE of a statement, which runs it, and that of a table, which
// commits.
func (r *reader) analyze() {
	r.advance()
	if r.skip("LOCAL", "NO_WRITE_TO_BINLOG"); r.at("TABLE") {
		r.define()
		return
	}
	for r.rule() != reads && r.advance() {
	}
	r.scan()
}

// copy reads COPY name FROM, COPY name TO and COPY (query) TO.
func (r *reader) copy() {
	for ahead := *r; ahead.advance(); {
		if ahead.at("PROGRAM") && (ahead.prev.is("FROM") || ahead.prev.is("TO")) {
			r.deny(reachesAny, "it runs a program on the server")
		}
	}
	if r.advance(); r.cur.is("(") {
		r.targetEnd = r.prev.end
		r.scan()
		return
	}
	known := len(r.writes)
	if !r.cur.name {
		r.deny(reachesMentioned, notPlain)
		return
	}
	if r.at("BINARY") {
		r.advance()
	}
	for r.qualified("COPY"); !r.ended && !r.at("FROM", "TO"); r.advance() {
		if r.cur.is("(") {
			for r.advance() && !r.cur.is(")") { // names of columns
			}
		}
	}
	if r.at("TO") {
		r.writes = r.writes[:known]
	}
	r.scan() // its WHERE
}

// truncate reads the tables of TRUNCATE. On MariaDB it commits.
func (r *reader) truncate() {
	for r.advance(); !r.ended; {
		switch {
		case r.at("TABLE", "ONLY", "(", ",") || !r.cur.name:
		case r.prev.is("TRUNCATE") || r.prev.is("TABLE") || r.prev.is("ONLY") || r.prev.is("(") ||
			r.prev.is(","):
			r.qualified("TRUNCATE")
			continue
		case r.at("CASCADE"):
			r.deny(reachesAny, "CASCADE empties every table that refers to its own")
		}
		r.advance()
	}
	if r.d == dialect.MySQL {
		r.end()
	}
}

// declare reads a cursor. One WITH HOLD runs its query to the end at the commit, behind the flush.
func (r *reader) declare() {
	for r.advance() && !r.at("FOR") {
		if r.at("HOLD") && !r.prev.is("WITHOUT") {
			r.deny(reachesAny, "a cursor WITH HOLD calls functions while the transaction commits")
		}
	}
	r.scan()
}

// save reads the steps of savepoints, and the ROLLBACK that ends a transaction.
func (r *reader) save() {
	verb := r.cur.text
	if verb == "ROLLBACK" {
		for r.advance() && !r.at("TO") {
		}
		if r.ended {
			r.ends = true
			return
		}
	}
	r.advance()
	if verb != "SAVEPOINT" && r.at("SAVEPOINT") && r.peek(1)[0].name {
		r.advance()
	}
	if !r.cur.name {
		r.deny(reachesSchema, "it does not name its savepoint plainly")
		return
	}
	r.savepoint = savepointStep{verb, r.cur.text}
	if !r.cur.quoted || r.d != dialect.PG {
		r.savepoint.name = strings.ToLower(r.cur.text)
	}
}

// end reads what begins or ends a transaction. BEGIN NOT ATOMIC of MariaDB does not: it is a block
// of statements.
func (r *reader) end() {
	if r.d == dialect.MySQL && r.at("BEGIN") && r.peek(1)[0].is("NOT") {
		r.unknown()
		return
	}
	r.ends = true
}

// prepare reads PREPARE TRANSACTION and PREPARE of a statement, which may run later by a name that
// says nothing.
func (r *reader) prepare() {
	if r.peek(1)[0].is("TRANSACTION") {
		r.ends = true
		return
	}
	r.unknown()
}

// define denies a statement that changes the schema. MariaDB commits before and after it.
func (r *reader) define() {
	reason := "it changes the schema, which no transaction of the box is for"
	if r.d == dialect.MySQL {
		r.ends = true
		reason = "MariaDB commits the transaction for it"
	}
	r.deny(reachesSchema, reason)
	block := false
	for r.advance() || block && r.begin() {
		switch {
		case r.at("BEGIN") && r.d != dialect.PG, r.at("ATOMIC") && r.prev.is("BEGIN"):
			block = true
		case block && r.at("END") && r.prev == token{} && !r.peek(1)[0].name:
			block = false // of a routine or trigger
		}
	}
	if block {
		r.deny(reachesMentioned, "the end of its block is not plain")
	}
}

// create allows tables and indexes. A temporary table may stand before a registered one of the same
// name, so it is listed with the writes.
func (r *reader) create() {
	temporary := false
	r.advance()
	for r.at("OR", "REPLACE", "TEMP", "TEMPORARY", "LOCAL", "GLOBAL", "UNLOGGED", "UNIQUE") {
		temporary = temporary || r.at("TEMP", "TEMPORARY")
		r.advance()
	}
	commits := r.d == dialect.MySQL && !temporary
	switch {
	case r.at("INDEX", "SEQUENCE") && !commits:
		r.calls = true // an index may be on a function
	case r.at("TABLE") && !commits:
		r.advance()
		r.skip("IF", "NOT", "EXISTS")
		r.createTable()
	default:
		r.define()
	}
}

// createTable reads a table from its name on.
func (r *reader) createTable() {
	if !r.cur.name {
		r.deny(reachesMentioned, notPlain)
		return
	}
	r.qualified("CREATE")
	r.sharesRows()
	r.scan()
}

// sharesRows denies tables whose rows are also another table's, and those that are made by a
// prepared statement.
func (r *reader) sharesRows() {
	ahead, prev := *r, token{}
	for ; !ahead.ended; ahead.advance() {
		switch t := ahead.cur; {
		case t.is("INHERITS"), t.is("OF") && prev.is("PARTITION"):
			r.deny(reachesSchema, "rows of the new table are rows of another one")
		case t.is("EXECUTE"):
			r.deny(reachesAny, unseenCode)
		case t.is("ENGINE"):
			if ahead.advance(); ahead.at("=") {
				ahead.advance()
			}
			if !ahead.at("INNODB", "ARIA", "MEMORY", "MYISAM") {
				r.deny(reachesSchema, "rows of the new table may be rows of another one")
			}
		}
		prev = ahead.cur
	}
}

// drop allows tables and indexes, as long as nothing goes with them.
func (r *reader) drop() {
	r.advance()
	temporary := r.at("TEMPORARY")
	if r.skip("TEMPORARY"); !r.at("TABLE", "INDEX") || r.d == dialect.MySQL && !temporary {
		r.define()
		return
	}
	table := r.at("TABLE")
	r.advance()
	r.skip("IF", "EXISTS", "CONCURRENTLY")
	for ; r.cur.name && !r.at("CASCADE", "RESTRICT"); r.skip(",") {
		if r.qualified("DROP"); !table {
			r.writes = r.writes[:len(r.writes)-1]
		}
	}
	if r.skip("RESTRICT"); !r.ended {
		r.define() // CASCADE
	}
}

// do looks for writes inside the body of a DO, so that the refusal can name the table.
func (r *reader) do() {
	r.deny(reachesMentioned, "DO runs code")
	for r.advance() {
		body := r.cur.text
		switch {
		case r.prev.is("LANGUAGE") && upper(body) != "PLPGSQL":
			r.deny(reachesAny, unseenCode)
		case !r.cur.quoted || r.cur.name:
			continue
		case r.sql[r.cur.start] == '\'':
			body = strings.ReplaceAll(body, "''", "'")
		case r.sql[r.cur.start] != '$':
			r.deny(reachesAny, unseenCode) // E'…'
		}
		inner := reader{lexer: newLexer(body, r.d), code: true}
		for inner.begin() {
			inner.scan()
		}
		r.writes = append(r.writes, inner.writes...)
		if r.reach = max(r.reach, inner.reach); inner.unclear != "" {
			r.reach = max(r.reach, inner.unclearReach())
		}
	}
}
