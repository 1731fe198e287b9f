package queue

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
)

type postgres struct{ db.Postgres }

func (postgres) oneRelay() bool { return false }

func (postgres) renumber(names Names, first, last int) (before, after []string) {
	messages := names.Table(`"`, "outbox_messages")
	return []string{
			// writers wait behind it: see db.Exclusive
			"LOCK TABLE " + messages + " IN ACCESS EXCLUSIVE MODE",
			"ALTER TABLE " + messages + " DROP CONSTRAINT outbox_messages_lanes",
		}, []string{
			fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT outbox_messages_lanes CHECK (lane BETWEEN "+
				"%d AND %d)", messages, first, last),
		}
}

// server is the time of its start: another one was started at another time, and so was this one
// where it was restored.
func (p postgres) server() string {
	return "CAST(" + p.Micros("pg_postmaster_start_time()") + " AS text)"
}

func (p postgres) serverQuery() string { return "SELECT " + p.server() }

func (p postgres) oldestPerLane(messages, due string, starts []Start, n int) string {
	return fmt.Sprintf("%s CROSS JOIN LATERAL (SELECT ctid, * FROM %s AS m "+
		"WHERE m.lane = l.lane AND m.id > l.after AND %s ORDER BY m.id LIMIT %d) AS m",
		p.starts(starts), messages, due, n)
}

// orderOfClaim leaves the order in a lane to oldestPerLane: it reads a lane in the order of m.id,
// and a nested loop, the only join there is for LATERAL, keeps it. No standard promises that, so
// readClaim looks. To sort what is in order took a quarter of a claim's time, because whole rows
// are copied.
func (postgres) orderOfClaim() string { return "l.n" }

// starts is a table l of them.
func (postgres) starts(starts []Start) string {
	lanes, after := make([]string, len(starts)), make([]string, len(starts))
	for i, s := range starts {
		lanes[i], after[i] = strconv.Itoa(s.Lane), strconv.FormatInt(s.After, 10)
	}
	return fmt.Sprintf("unnest('{%s}'::smallint[], '{%s}'::bigint[]) WITH ORDINALITY AS l(lane, "+
		"after, n)",
		strings.Join(lanes, ","), strings.Join(after, ","))
}

func (postgres) place(table string) string { return table + ".ctid" }

// claimedRows goes straight to the rows, which saves a descent of the index for each. The
// identities make sure that they still are those rows: a place is used again after its row was
// vacuumed away. A row that is being updated is not there any more when the update is committed:
// see movedRows.
//
// The lists stand in queries, which hides how long they are: for some thousand places PostgreSQL
// would rather read the whole table, and spend as much time on guessing how many of them there are
// as on removing them.
func (p postgres) claimedRows(messages string, claimed []*Claimed) schema.QueryWithArgs {
	var places db.Array
	for _, m := range claimed {
		if m.place == "" { // not from a claim
			return p.atPlaces(messages, claimed)
		}
		places.Add(string(m.place))
	}
	return bun.SafeQuery("ctid = ANY (ARRAY(SELECT unnest(?::tid[]))) AND ?", places.Literal(),
		p.same(claimed))
}

// same says that a row is one of the messages, and not another that was given the same identity and
// place after the database went back.
func (p postgres) same(claimed []*Claimed) schema.QueryWithArgs {
	var models, keys db.Array
	ids, created, revisions := make([]int64, len(claimed)), make([]int64,
		len(claimed)), make([]int64, len(claimed))
	for i, m := range claimed {
		ids[i], created[i], revisions[i] = m.ID, m.Created.UnixMicro(), m.Revision
		models.Add(m.Model)
		keys.Add(m.Key)
	}
	return bun.SafeQuery(hashed(`(id, `+p.Micros("created_at")+`, revision, model, key)`, fmt.Sprintf(
		"SELECT unnest('{%s}'::bigint[]), unnest('{%s}'::bigint[]), unnest('{%s}'::bigint[]), "+
			"unnest(?::text[]), unnest(?::text[])",
		db.JoinInts(ids), db.JoinInts(created), db.JoinInts(revisions))),
		models.Literal(), keys.Literal())
}

// atPlaces is the condition of the claimed rows that finds their places first, one descent of the
// index for each: a list of lanes and one of identities would be one for each pair, ten thousand
// for a hundred rows. The limit keeps the lookup from becoming a join, which may read the table.
func (p postgres) atPlaces(messages string, claimed []*Claimed) schema.QueryWithArgs {
	return bun.SafeQuery("ctid = ANY (ARRAY("+p.lookUp(messages, claimed, "")+")) AND ?",
		p.same(claimed))
}

func (p postgres) identities(messages string, claimed []*Claimed, lock string) string {
	return strings.Replace(p.lookUp(messages, claimed, lock), "SELECT m.place", "SELECT l.id", 1)
}

func (postgres) waitAtMost(b db.Bounds) string { return b.SetLockWait() }

func (postgres) lookUp(messages string, claimed []*Claimed, lock string) string {
	lanes, ids := make([]int64, len(claimed)), make([]int64, len(claimed))
	for i, m := range claimed {
		lanes[i], ids[i] = int64(m.Lane), m.ID
	}
	return fmt.Sprintf("SELECT m.place FROM unnest('{%s}'::smallint[], '{%s}'::bigint[]) AS "+
		"l(lane, id) CROSS JOIN LATERAL (SELECT m.ctid AS place FROM %s AS m WHERE m.lane = "+
		"l.lane AND m.id = l.id LIMIT 1%s) AS m",
		db.JoinInts(lanes), db.JoinInts(ids), messages, lock)
}

func (p postgres) movedRows(
	messages string, claimed []*Claimed,
) (hold string, found schema.QueryWithArgs) {
	return p.lookUp(messages, claimed, " FOR UPDATE"), p.atPlaces(messages, claimed)
}

// writers finds who writes by the lock of the sequence: who draws an identity takes it first, and
// keeps it until its transaction ends. Unlike the oldest transaction's number, the lock is not
// held by those that write elsewhere, nor, as one of the table would be, by those that remove
// messages. A prepared transaction keeps it until COMMIT PREPARED, and has no pid. The
// sequence is read before the locks: the outer side of a join on nothing comes first. A role
// that may not read it does without.
func (postgres) writers(messages string) string {
	return `
		WITH identity AS (SELECT pg_get_serial_sequence('` + messages + `', 'id')::regclass AS sequence),
		drawn AS MATERIALIZED (
			SELECT CASE WHEN has_sequence_privilege(sequence, 'SELECT, USAGE')
				THEN pg_sequence_last_value(sequence) END AS id
			FROM identity)
		SELECT coalesce(drawn.id, 0), l.virtualtransaction
		FROM drawn LEFT JOIN pg_locks AS l ON l.locktype = 'relation'
			AND l.mode = 'RowExclusiveLock' AND l.granted
			AND l.pid IS DISTINCT FROM pg_backend_pid()
			AND l.relation = (SELECT sequence FROM identity)
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`
}

func (postgres) anyOf(column, query string) string { return hashed(column, query) }

// hashed looks a column up among what a query returns. Without IS TRUE it would become a join, and
// that the way to find the rows.
func hashed(column, query string) string { return column + " IN (" + query + ") IS TRUE" }

// inOrder keeps PostgreSQL to the index: with a limit that it takes for larger than the lane, it
// would read the whole lane and sort it. And it takes such a statement for so expensive that it
// compiles it, which costs more than running it.
func (postgres) inOrder() string {
	return "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off"
}

// notIn hashes them in every version.
func (postgres) notIn(expression string, numbers []int64) string {
	return expression + " NOT IN (SELECT unnest('{" + db.JoinInts(numbers) + "}'::bigint[]))"
}
