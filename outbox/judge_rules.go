package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

// rule is how the judge reads a statement, by its first word.
type rule int

const (
	unknown    rule = iota
	reads           // a query, or a write whose table is named: scanned for both
	passes          // it does nothing to rows and calls nothing
	calling         // it does nothing to rows but what functions of the user's do
	explaining      // EXPLAIN, and the statement behind it
	analyzing       // ANALYZE of MariaDB runs the statement behind it
	copying         // COPY
	truncating      // TRUNCATE
	declaring       // DECLARE CURSOR
	setting         // SET, RESET
	switching       // another database, or another meaning of names
	saving          // SAVEPOINT, RELEASE, ROLLBACK
	ending          // BEGIN, COMMIT and the like
	preparing       // PREPARE
	creating        // CREATE
	dropping        // DROP
	defining        // what else changes the schema, rights or files
	doing           // DO of PostgreSQL
	pragmatic       // PRAGMA of SQLite
	hiding          // it runs code from elsewhere
)

// rules is the allow-list: the statements of each database that the judge knows.
var rules = map[dialect.Name]map[string]rule{
	dialect.PG: ruleSet(map[rule]string{
		reads:      "( SELECT VALUES TABLE WITH INSERT UPDATE DELETE MERGE",
		passes:     "SHOW LISTEN UNLISTEN NOTIFY LOCK CLOSE DEALLOCATE",
		calling:    "FETCH MOVE ANALYZE REFRESH",
		explaining: "EXPLAIN",
		copying:    "COPY",
		truncating: "TRUNCATE",
		declaring:  "DECLARE",
		setting:    "SET RESET",
		saving:     "SAVEPOINT RELEASE ROLLBACK",
		ending:     "BEGIN START COMMIT END ABORT",
		preparing:  "PREPARE",
		creating:   "CREATE",
		dropping:   "DROP",
		defining: "ALTER COMMENT GRANT REVOKE REINDEX CLUSTER VACUUM CHECKPOINT SECURITY IMPORT " +
			"DISCARD REASSIGN",
		doing:  "DO",
		hiding: "EXECUTE CALL",
	}),
	dialect.MySQL: ruleSet(map[rule]string{
		reads:      "( SELECT VALUES WITH SHOW INSERT REPLACE UPDATE DELETE",
		passes:     "DEALLOCATE HELP",
		explaining: "EXPLAIN DESCRIBE DESC",
		analyzing:  "ANALYZE",
		truncating: "TRUNCATE",
		setting:    "SET",
		switching:  "USE",
		saving:     "SAVEPOINT RELEASE ROLLBACK",
		ending:     "BEGIN START COMMIT XA LOCK UNLOCK",
		creating:   "CREATE",
		dropping:   "DROP",
		defining: `ALTER RENAME GRANT REVOKE OPTIMIZE CHECK REPAIR FLUSH CACHE INSTALL UNINSTALL RESET
			CHANGE STOP PURGE SHUTDOWN`,
		hiding: "EXECUTE CALL BINLOG",
	}),
	dialect.SQLite: ruleSet(map[rule]string{
		reads:      "SELECT VALUES WITH INSERT REPLACE UPDATE DELETE",
		passes:     "ANALYZE REINDEX VACUUM",
		explaining: "EXPLAIN",
		switching:  "ATTACH DETACH",
		saving:     "SAVEPOINT RELEASE ROLLBACK",
		ending:     "BEGIN COMMIT END",
		creating:   "CREATE",
		dropping:   "DROP",
		defining:   "ALTER",
		pragmatic:  "PRAGMA",
	}),
}

func ruleSet(words map[rule]string) map[string]rule {
	set := map[string]rule{}
	for rule, list := range words {
		for word := range wordSet(list) {
			set[word] = rule
		}
	}
	return set
}

// statement judges the statement whose first token is the current one.
func (r *reader) statement() {
	switch r.rule() {
	case reads:
		r.scan()
	case passes:
	case calling:
		r.calls = true
	case explaining:
		r.explain()
	case analyzing:
		r.analyze()
	case copying:
		r.copy()
	case truncating:
		r.truncate()
	case declaring:
		r.declare()
	case setting:
		r.set()
	case switching:
		r.deny(reachesSchema, "it changes which tables later statements mean")
	case saving:
		r.save()
	case ending:
		r.end()
	case preparing:
		r.prepare()
	case creating:
		r.create()
	case dropping:
		r.drop()
	case defining:
		r.define()
	case doing:
		r.do()
	case pragmatic:
		r.pragma()
	case hiding:
		r.deny(reachesAny, unseenCode)
	default:
		r.unknown()
	}
	r.drain()
}

func (r *reader) rule() rule {
	if r.cur.quoted || r.peek(1)[0].is(":") { // a label of MariaDB
		return unknown
	}
	return rules[r.d][r.cur.text]
}

// unknown looks for what writes the text shows, so that the refusal can name the table.
func (r *reader) unknown() {
	r.deny(reachesMentioned, "cqrsync does not know what this statement does")
	r.code = true
	r.scan()
	r.code = false
}

// explain judges the statement behind EXPLAIN. Without ANALYZE it does not run.
func (r *reader) explain() {
	runs := false
	for r.advance() && r.rule() != reads || r.at("(") && r.explainOptions() {
		if runs = runs || r.at("ANALYZE", "ANALYSE"); r.rule() == creating || r.at("EXECUTE") {
			break
		}
	}
	if r.ended { // a table, or a statement whose functions run
		r.calls = r.calls || runs
		return
	}
	known := len(r.writes)
	r.statement()
	if !runs {
		r.writes = r.writes[:known]
	}
}

// explainOptions says that the parenthesis holds options of PostgreSQL's EXPLAIN and not a query.
func (r *reader) explainOptions() bool {
	next := r.peek(1)[0]
	return r.d == dialect.PG && (next.quoted || rules[r.d][next.text] != reads)
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
	clauses = wordSet(`ALL AND ANY ARRAY AS CASE CHECK DISTINCT ELSE EXCEPT EXISTS FROM HAVING IN
		INTERSECT LATERAL LIMIT NOT OFFSET ON OR PRIMARY RETURNING SELECT SOME THEN UNION UNIQUE USING
		VALUES WHEN WHERE WITH CHAR DECIMAL NUMERIC VARCHAR`)
	// functions change nothing. None of them runs SQL that it is given as a text.
	functions = wordSet(`ABS AVG COALESCE CONCAT COUNT CURRENT_DATE CURRENT_TIMESTAMP CURRVAL
		DATE_TRUNC EXTRACT GREATEST GEN_RANDOM_UUID IFNULL LAST_INSERT_ID LAST_INSERT_ROWID LEAST LENGTH
		LOWER MAX MIN NEXTVAL NOW NULLIF PG_ADVISORY_LOCK PG_ADVISORY_XACT_LOCK PG_NOTIFY RANDOM REPLACE
		ROUND ROW_NUMBER SUBSTR SUBSTRING SUM TRIM UPPER UUID`)
	operators = wordSet(`+ - * / % ^ = < > <= >= <> != || -> ->> #> #>> #- @> <@ ? ?| ?& && & | ~ ~*
		!~ !~*`)
	types = wordSet(`BIGINT BOOL BOOLEAN BYTEA CHAR CIDR DATE DECIMAL DOUBLE FLOAT FLOAT4 FLOAT8 INET
		INT INT2 INT4 INT8 INTEGER INTERVAL JSON JSONB NUMERIC REAL SMALLINT TEXT TIME TIMESTAMP
		TIMESTAMPTZ TIMETZ UUID VARCHAR`)
)
