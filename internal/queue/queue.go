// Package queue is the SQL of relays on a master's outbox: who owns which lanes, what is read of
// them, and what leaves the outbox when it was sent, or when newer messages replace it.
//
// A relay declares what it needs of it (relay.Queue); internal/queue/memory is the same without a
// database. Every dialect runs one conformance suite.
package queue

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// These words a queue shares with those who append to it.
type (
	Key         = db.Key
	Names       = db.Names
	Message     = outgoing.Message
	LockedError = db.LockedError
)

// Queue runs the statements of relays on one database. It is safe for concurrent use.
type Queue struct {
	*db.Database
	dialect dialect
	lanes   *outgoing.Lanes
	ledger  *ledger.Revisions

	timeline timeline // of the relays that own lanes through this queue
	watch    watch    // over the leases of others
}

// New talks to nobody yet.
func New(d *db.Database) *Queue {
	return &Queue{
		Database: d, dialect: db.Choose[dialect](d, postgres{}, mariadb{},
			sqlite{}), lanes: outgoing.NewLanes(d),
		ledger: ledger.NewRevisions(d),
	}
}

// dialect is what differs between databases in the SQL of a queue.
type dialect interface {
	db.Dialect
	// renumber are the statements around a change of the lanes that keep writers away until it
	// commits, and refuse those who know the old ones afterwards. The first one waits for all who
	// write.
	renumber(names Names, first, last int) (before, after []string)
	// count counts the rows of a table up to the bound at least, and estimates what is beyond. key
	// are the columns of its primary key.
	count(ctx context.Context, db bun.IDB, table, key string, b bound) (Count, error)
	// oldestPerLane is what follows FROM in a query for the first n messages m behind each start l
	// for which due holds; l.n counts the starts. It must read no more rows than that, however long
	// a lane is.
	oldestPerLane(messages, due string, starts []Start, n int) string
	// orderOfClaim is by l.n and, in a lane, by m.id.
	orderOfClaim() string
	// place is an expression for where the row of a table is, for claimedRows.
	place(table string) string
	// claimedRows is a condition that finds claimed rows, and no others that have their identities,
	// without a scan.
	claimedRows(messages string, claimed []*Claimed) schema.QueryWithArgs
	// identities is a query for the identities of those claimed messages that are there. lock ends
	// the part that reads them.
	identities(messages string, claimed []*Claimed, lock string) string
	// waitAtMost stands before a statement that is not in a transaction of inTx, to bound its wait
	// for locks. May be empty.
	waitAtMost(b db.Bounds) string
	// movedRows finds rows that another transaction updates while claimedRows looks for them. hold
	// is a query, to be named l, that locks the rows where they are now; found is the condition
	// that then finds them. hold is empty where claimedRows waits for the other transaction by
	// itself.
	movedRows(messages string, claimed []*Claimed) (hold string, found schema.QueryWithArgs)
	// server is an expression for a text that says which server answers, and since when; empty
	// where there is no server.
	server() string
	// serverQuery is a query for that text, empty where the answer may come from any of several
	// servers.
	serverQuery() string
	// writers is a query for Writers, or empty: rows of Drawn and one of those in Open, or null.
	// Drawn must be read first.
	writers(messages string) string
	// anyOf says that a column has one of the few values that a query returns. It runs once, and it
	// is no way to find rows.
	anyOf(column, query string) string
	// inOrder makes the statements of a transaction read lanes by the index, whatever they guess of
	// their length. May be empty.
	inOrder() string
	// notIn says that an expression has none of many numbers.
	notIn(expression string, numbers []int64) string
	// oneRelay says that the database has one writer, so that a second relay could only get in the
	// way of the first.
	oneRelay() bool
	// compact drops replaced messages of the lanes, as Compact does, looking at up to n messages of
	// each.
	compact(ctx context.Context, tx bun.IDB, q *Queue, c compaction) (Compacted, error)
	// supersede does one part of Supersede, and notes what it did.
	supersede(ctx context.Context, q *Queue, c *supersession) error
}
