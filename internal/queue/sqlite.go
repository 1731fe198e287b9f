package queue

import (
	"fmt"
	"math"
	"strings"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
)

type sqlite struct{ db.SQLite }

// renumber has nothing to do: a write transaction excludes all others.
func (sqlite) renumber(Names, int, int) (before, after []string) { return nil, nil }

// oldestPerLane has no LATERAL here: it looks for the n-th row first, and takes what is not beyond
// it. SQLite never reorders a CROSS JOIN, so that this stays a range scan of the index for each
// lane.
func (sqlite) oldestPerLane(messages, due string, starts []Start, n int) string {
	rows := make([]string, len(starts))
	for i, s := range starts {
		rows[i] = fmt.Sprintf("(%d, %d, %d)", i, s.Lane, s.After)
	}
	return fmt.Sprintf("(SELECT column1 AS n, column2 AS lane, column3 AS after FROM (VALUES "+
		"%[5]s)) AS l CROSS JOIN %[1]s AS m ON m.lane = l.lane AND m.id > l.after AND %[2]s AND "+
		"m.id <= coalesce((SELECT m.id FROM %[1]s AS m WHERE m.lane = l.lane AND m.id > l.after "+
		"AND %[2]s ORDER BY m.id LIMIT 1 OFFSET %[3]d), %[4]d)",
		messages, due, n-1, int64(math.MaxInt64), strings.Join(rows, ", "))
}

func (sqlite) orderOfClaim() string { return "l.n, m.id" }
func (sqlite) place(string) string  { return "''" }
func (sqlite) oneRelay() bool       { return true }
func (sqlite) server() string       { return "" }
func (sqlite) serverQuery() string  { return "" }

func (sqlite) claimedRows(_ string, claimed []*Claimed) schema.QueryWithArgs {
	return idIn(`"key"`, "VALUES ", claimed)
}

func (sqlite) movedRows(string, []*Claimed) (hold string, found schema.QueryWithArgs) {
	return "", schema.QueryWithArgs{}
}

func (sqlite) identities(messages string, claimed []*Claimed, lock string) string {
	return selectIDs(messages, claimed, lock)
}

func (sqlite) waitAtMost(db.Bounds) string { return "" }

// writers is empty: SQLite leaves nothing of removed rows behind, so a start need not be moved.
func (sqlite) writers(string) string { return "" }

func (sqlite) inOrder() string { return "" }

// anyOf has a sign before the column, which keeps SQLite from finding rows by it.
func (sqlite) anyOf(column, query string) string { return "+" + column + " IN (" + query + ")" }

func (sqlite) notIn(expression string, numbers []int64) string {
	return expression + " NOT IN (" + db.JoinInts(numbers) + ")"
}
