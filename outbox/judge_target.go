package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

// beforeTarget holds the words that may stand between a verb and the name of its table. They can be
// names of tables in no dialect that uses them.
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
			r.ends = r.ends || r.at("ROLLBACK")
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

// joined reads the tables of MariaDB's UPDATE and DELETE, which may be several: whatever stands
// where a table can.
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
