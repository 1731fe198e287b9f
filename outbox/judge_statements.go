package outbox

import (
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun/dialect"
)

// analyze reads MariaDB's ANALYZE of a statement, which runs it, and that of a table, which commits.
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
	if r.peek(1)[0].is("PROGRAM") {
		r.deny(reachesAny, "it runs a program on the server")
	}
	r.scan() // its WHERE
}

// truncate reads the tables of TRUNCATE. On MariaDB it commits.
func (r *reader) truncate() {
	for r.advance(); !r.ended; {
		if r.cur.name && (r.prev.is("TRUNCATE") || r.prev.is(",") || r.prev.is("ONLY") || r.prev.is("TABLE") ||
			r.prev.is("(")) && !r.at("TABLE", "ONLY") {
			r.qualified("TRUNCATE")
			continue
		}
		if r.at("CASCADE") {
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

// settings holds what a transaction may set without changing what later statements mean, or read.
var settings = map[dialect.Name]map[string]bool{
	dialect.PG: wordSet(`APPLICATION_NAME CHARACTERISTICS CLIENT_MIN_MESSAGES CONSTRAINTS DEADLOCK_TIMEOUT
		ENABLE_HASHJOIN ENABLE_INDEXSCAN ENABLE_MERGEJOIN ENABLE_NESTLOOP ENABLE_SEQSCAN
		IDLE_IN_TRANSACTION_SESSION_TIMEOUT JIT LOCK_TIMEOUT MAINTENANCE_WORK_MEM PLAN_CACHE_MODE STATEMENT_TIMEOUT
		SYNCHRONOUS_COMMIT TIME TIMEZONE TRANSACTION TRANSACTION_ISOLATION WORK_MEM`),
	dialect.MySQL: wordSet(`GROUP_CONCAT_MAX_LEN IDLE_TRANSACTION_TIMEOUT INNODB_LOCK_WAIT_TIMEOUT LOCK_WAIT_TIMEOUT
		MAX_STATEMENT_TIME SORT_BUFFER_SIZE TRANSACTION TX_ISOLATION WAIT_TIMEOUT`),
}

// ownSetting is a setting of an application, such as the tenant that a policy asks for.
var ownSetting = regexp.MustCompile(`^[A-Za-z0-9_]+\.[A-Za-z0-9_.]+$`)

// settable says whether a transaction on PostgreSQL may set the name. Of others, such as search_path, role and
// row_security, later statements and the flush would see other tables or rows.
func settable(name string) bool {
	return ownSetting.MatchString(name) || settings[dialect.PG][upper(name)]
}

// set reads SET and RESET.
func (r *reader) set() {
	if r.d == dialect.MySQL {
		r.setMySQL()
		return
	}
	r.advance()
	r.skip("SESSION", "LOCAL")
	name := r.cur.text
	for r.advance() && r.cur.is(".") && r.advance() {
		name += "." + r.cur.text
	}
	if !settable(name) {
		r.deny(reachesSchema, "it sets "+strings.ToLower(name)+", which may change what later statements mean")
	}
	r.calls = r.calls || name == "CONSTRAINTS" // deferred triggers run
}

// setMySQL reads the assignments of a SET. Each of them may name another scope and variable.
func (r *reader) setMySQL() {
	if r.peek(1)[0].is("STATEMENT") {
		r.unknown()
		return
	}
	for r.advance() {
		r.skip("SESSION", "LOCAL")
		name, own := r.cur.text, r.cur.is("@") && !r.peek(1)[0].is("@")
		if r.cur.is("@") && !own {
			r.skip("@", "SESSION", "LOCAL", ".")
			name = r.cur.text
		}
		if !own && !settings[r.d][upper(name)] {
			r.deny(reachesSchema, "it sets "+strings.ToLower(name)+", which may change what later statements mean")
			r.ends = r.ends || slices.Contains([]string{"AUTOCOMMIT", "PASSWORD"}, upper(name))
		}
		for depth := 0; !r.ended && (depth > 0 || !r.cur.is(",")); r.advance() {
			switch r.cur.text {
			case "(":
				depth++
				r.call()
			case ")":
				depth--
			}
		}
	}
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

// end reads what begins or ends a transaction. BEGIN NOT ATOMIC of MariaDB does not: it is a block of statements.
func (r *reader) end() {
	if r.d == dialect.MySQL && r.at("BEGIN") && r.peek(1)[0].is("NOT") {
		r.unknown()
		return
	}
	r.ends = true
}

// prepare reads PREPARE TRANSACTION and PREPARE of a statement, which may run later by a name that says nothing.
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
		case block && r.at("END") && r.prev == token{} && !r.peek(1)[0].name: // the last one of a routine or trigger
			block = false
		}
	}
	if block {
		r.deny(reachesMentioned, "the end of its block is not plain")
	}
}

// create allows tables and indexes. A temporary table may stand before a registered one of the same name, so it is
// listed with the writes.
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

// sharesRows denies tables whose rows are also another table's, and those that are made by a prepared statement.
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
	for r.skip("IF", "EXISTS", "CONCURRENTLY", ","); r.cur.name && !r.at("CASCADE", "RESTRICT"); r.skip(",") {
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

// pragmas holds those that may be given a value.
var pragmas = wordSet(`ANALYSIS_LIMIT BUSY_TIMEOUT CACHE_SIZE DEFER_FOREIGN_KEYS FOREIGN_KEY_CHECK FOREIGN_KEY_LIST
	INDEX_INFO INDEX_LIST INDEX_XINFO INTEGRITY_CHECK OPTIMIZE QUICK_CHECK TABLE_INFO TABLE_LIST TABLE_XINFO
	USER_VERSION WAL_CHECKPOINT`)

// pragma allows those of SQLite that change nothing but the connection's ways.
func (r *reader) pragma() {
	r.advance()
	name := upper(r.cur.text)
	for r.advance() && r.cur.is(".") && r.advance() {
		name = upper(r.cur.text)
	}
	if !r.ended && !pragmas[name] {
		r.deny(reachesSchema, "it sets "+strings.ToLower(name)+", which may change what later statements mean")
	}
}
