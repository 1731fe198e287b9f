package queue

import (
	"fmt"
	"strings"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
)

type mariadb struct{ db.MariaDB }

func (mariadb) renumber(names Names, first, last int) (before, after []string) {
	numbers := names.Table("`", "outbox_lane_numbers")
	return []string{ // whose rows writers hold; others wait behind this statement: see db.Exclusive
			"DELETE FROM " + numbers,
		}, []string{
			fmt.Sprintf("INSERT INTO %s (lane) SELECT lane FROM %s WHERE lane BETWEEN %d AND %d",
				numbers, names.Table("`", "outbox_lanes"), first, last),
		}
}

// tableRows is a query for about how many rows a table has.
func (m mariadb) tableRows(table string) string {
	return "SELECT coalesce(table_rows, 0) FROM information_schema.tables WHERE " + m.IsTable(table)
}

// oldestPerLane has no LATERAL here, and MariaDB takes no limit that depends on a lane as the end
// of a range: it would read the whole lane. So each lane is a query of its own. They find
// identities only, because what they find goes through a temporary table.
func (mariadb) oldestPerLane(messages, due string, starts []Start, n int) string {
	oldest := make([]string, len(starts))
	for i, start := range starts {
		oldest[i] = fmt.Sprintf("(SELECT %d AS n, m.lane, m.id FROM %s AS m WHERE m.lane = %d AND "+
			"m.id > %d AND %s ORDER BY m.id LIMIT %d)",
			i, messages, start.Lane, start.After, due, n)
	}
	return fmt.Sprintf("(%s) AS l STRAIGHT_JOIN %s AS m ON m.lane = l.lane AND m.id = l.id",
		strings.Join(oldest, " UNION ALL "), messages)
}

func (mariadb) orderOfClaim() string { return "l.n, m.id" }
func (mariadb) place(string) string  { return "''" }
func (mariadb) oneRelay() bool       { return false }

func (mariadb) claimedRows(_ string, claimed []*Claimed) schema.QueryWithArgs {
	return idIn("`key`", "", claimed)
}

func (mariadb) movedRows(string, []*Claimed) (hold string, found schema.QueryWithArgs) {
	return "", schema.QueryWithArgs{}
}

func (mariadb) identities(messages string, claimed []*Claimed, lock string) string {
	return selectIDs(messages, claimed, lock)
}

func (mariadb) waitAtMost(db.Bounds) string { return "" }

// server leaves out since when it runs, which takes long to ask.
func (mariadb) server() string { return "CONCAT(@@hostname, ':', @@port, ':', @@server_id)" }

// serverQuery is empty for a Galera cluster: each connection may be to another of its servers.
func (m mariadb) serverQuery() string {
	return "SELECT CASE WHEN EXISTS (SELECT 1 FROM information_schema.global_variables " +
		"WHERE variable_name = 'WSREP_ON' AND variable_value = 'ON') THEN '' ELSE " + m.server() +
		" END"
}

// writers is empty: what InnoDB knows of open transactions takes a privilege to read.
func (mariadb) writers(string) string { return "" }

func (mariadb) inOrder() string { return "" }

func (mariadb) anyOf(column, query string) string { return column + " IN (" + query + ")" }

func (mariadb) notIn(expression string, numbers []int64) string {
	return expression + " NOT IN (" + db.JoinInts(numbers) + ")"
}
