package ledger

import (
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Raise returns what an INSERT does with a row of the master's ledger that is there: it draws the
// next revision, at the present time, or just after that of the last one where the clock went back.
// row stands before its columns.
//
// It is the one text of the rule (P4, P7): for the statements of this package, for the functions
// that the migrations make, and for those that triggers call.
func Raise(d db.Dialect, row string) string {
	return `after = ` + row + `produced, produced = ` + row + `revision + 1,
			revision = ` + row + `revision + 1, updated_at = ` +
		d.Greatest(d.Proposed("updated_at"), d.After(row+"updated_at", time.Microsecond))
}

// Follows returns the condition, in the ledger, for Message.Follows. resent is the revision at
// which something of the key was sent once more, a SYNC or a dead letter. While resent is below
// after, the last thing sent was the message of after.
func Follows(row string) string {
	return `(` + row + `revision = 0 OR ` + row + `after IS NOT NULL ` +
		`AND coalesce(` + row + `resent, -1) < ` + row + `after)`
}
