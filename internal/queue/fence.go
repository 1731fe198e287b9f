package queue

import (
	"fmt"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
)

// fence is a condition on a row of outbox_messages that holds only while relay owns its lane under
// the very epoch and nonce that lanes says, on the server that it took the lane from. A relay that
// was stopped for longer than its lease, or survived a restore of the database, changes nothing.
func (q *Queue) fence(relay string, lanes []Lane) schema.QueryWithArgs {
	var owned []string
	for tenure, numbers := range lanesByTenure(lanes) {
		owned = append(owned, fmt.Sprintf("epoch = %d AND nonce = %d AND lane IN (%s)",
			tenure.Epoch, tenure.Nonce, db.JoinInts(numbers)))
	}
	return bun.SafeQuery(
		q.dialect.anyOf("lane", "SELECT lane FROM ? WHERE owner = ? AND ("+
			strings.Join(owned, " OR ")+") AND "+q.sameServer()),
		q.Table("outbox_lanes"), relay)
}

// lanesByTenure groups the numbers of lanes: the tenures are few, and a list of numbers is read
// faster than one of tuples.
func lanesByTenure(lanes []Lane) map[Lane][]int64 {
	byTenure := map[Lane][]int64{}
	for _, l := range lanes {
		tenure := Lane{Epoch: l.Epoch, Nonce: l.Nonce}
		byTenure[tenure] = append(byTenure[tenure], int64(l.Lane))
	}
	return byTenure
}
