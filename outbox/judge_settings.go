package outbox

import (
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun/dialect"
)

// settings holds what a transaction may set without changing what later statements mean, or read.
var settings = map[dialect.Name]map[string]bool{
	dialect.PG: wordSet(`APPLICATION_NAME CHARACTERISTICS CLIENT_MIN_MESSAGES
		CONSTRAINTS DEADLOCK_TIMEOUT
		ENABLE_HASHJOIN ENABLE_INDEXSCAN ENABLE_MERGEJOIN ENABLE_NESTLOOP ENABLE_SEQSCAN
		IDLE_IN_TRANSACTION_SESSION_TIMEOUT JIT LOCK_TIMEOUT MAINTENANCE_WORK_MEM
		PLAN_CACHE_MODE STATEMENT_TIMEOUT SYNCHRONOUS_COMMIT TIME TIMEZONE TRANSACTION
		TRANSACTION_ISOLATION WORK_MEM`),
	dialect.MySQL: wordSet(`GROUP_CONCAT_MAX_LEN IDLE_TRANSACTION_TIMEOUT
		INNODB_LOCK_WAIT_TIMEOUT LOCK_WAIT_TIMEOUT
		MAX_STATEMENT_TIME SORT_BUFFER_SIZE TRANSACTION TX_ISOLATION WAIT_TIMEOUT`),
}

// ownSetting is a setting of an application, such as the tenant that a policy asks for.
var ownSetting = regexp.MustCompile(`^[A-Za-z0-9_]+\.[A-Za-z0-9_.]+$`)

// settable says whether a transaction on PostgreSQL may set the name. Of others, such as
// search_path, role and row_security, later statements and the flush would see other tables or
// rows.
func settable(name string) bool {
	return ownSetting.MatchString(name) || settings[dialect.PG][upper(name)]
}

func (r *reader) denySetting(name string) {
	reason := "it sets " + strings.ToLower(name) + ", which may change what later statements mean"
	r.deny(reachesSchema, reason)
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
		r.denySetting(name)
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
			r.denySetting(name)
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

// pragmas holds those that may be given a value.
var pragmas = wordSet(`ANALYSIS_LIMIT BUSY_TIMEOUT CACHE_SIZE DEFER_FOREIGN_KEYS
	FOREIGN_KEY_CHECK FOREIGN_KEY_LIST
	INDEX_INFO INDEX_LIST INDEX_XINFO INTEGRITY_CHECK OPTIMIZE QUICK_CHECK
	TABLE_INFO TABLE_LIST TABLE_XINFO USER_VERSION WAL_CHECKPOINT`)

// pragma allows those of SQLite that change nothing but the connection's ways.
func (r *reader) pragma() {
	r.advance()
	name := upper(r.cur.text)
	for r.advance() && r.cur.is(".") && r.advance() {
		name = upper(r.cur.text)
	}
	if !r.ended && !pragmas[name] {
		r.denySetting(name)
	}
}
