// Package store is the SQL of cqrsync: the ledgers, the outbox, the lanes and the dead letters, per dialect.
//
// outbox, relay and replica decide what must happen to a key; this package is the only place that knows how a
// table is written. Every dialect runs the one conformance suite in internal/store/storetest.
//
// Neighbours: migrations (the tables), outbox, relay, replica (the callers). It imports none of the three.
package store

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/outgoing"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// The parts of package db that callers know under names of this one.
type (
	Names            = db.Names
	Side             = db.Side
	Key              = db.Key
	DeadLetterFilter = db.DeadLetterFilter
	LockedError      = db.LockedError
	BatchLimits      = db.BatchLimits
	Array            = db.Array

	Message               = outgoing.Message
	Handover              = handover.Handover
	Offer                 = handover.Offer
	Appended              = handover.Appended
	Change                = ledger.Change
	Revision              = ledger.Revision
	Settlement            = ledger.Settlement
	Known                 = ledger.Known
	Entity                = master.Entity
	Applied               = applied.Applied
	Waiting               = applied.Waiting
	ReplicaDeadLetter     = applied.ReplicaDeadLetter
	KeptReplicaDeadLetter = applied.KeptReplicaDeadLetter
	Passed                = applied.Passed
	Late                  = applied.Late
	Master                = applied.Master
	Neighbour             = applied.Neighbour
	TableShape            = catalog.TableShape
	Column                = catalog.Column
	UniqueKey             = catalog.UniqueKey
	Reference             = catalog.Reference
)

// The two sides.
const (
	Outbox  = db.Outbox
	Replica = db.Replica
)

// NeverApplied is applied.NeverApplied.
const NeverApplied = applied.NeverApplied

// ErrOvertaken is applied.ErrOvertaken.
var ErrOvertaken = applied.ErrOvertaken

// ErrNotMigrated is tables.ErrNotMigrated.
var ErrNotMigrated = tables.ErrNotMigrated

// SQLState is db.SQLState.
func SQLState(err error) string { return db.SQLState(err) }

// SQLiteCode is db.SQLiteCode.
func SQLiteCode(err error) int { return db.SQLiteCode(err) }

// Conflicted is db.Conflicted.
func Conflicted(err error) bool { return db.Conflicted(err) }

// LockTimedOut is db.LockTimedOut.
func LockTimedOut(err error) bool { return db.LockTimedOut(err) }

// Store runs cqrsync's statements on one database. It is safe for concurrent use.
type Store struct {
	*db.Database
	*ledger.Revisions
	*master.Writer
	*tables.Migrator
	*catalog.Catalog
	*applied.Tables
	dialect  sqlDialect
	lanes    *outgoing.Lanes
	timeline timeline // of the relays that own lanes through this store
	watch    watch    // over the leases of others
}

// New checks the names and the dialect; it does not talk to the database.
func New(bunDB *bun.DB, names Names) (*Store, error) {
	d, err := db.New(bunDB, names)
	if err != nil {
		return nil, err
	}
	return &Store{
		Database: d, Revisions: ledger.NewRevisions(d), Writer: master.New(d), lanes: outgoing.NewLanes(d),
		Migrator: tables.New(d), Catalog: catalog.New(d), Tables: applied.New(d),
		dialect: dialectOf(d.Dialect()),
	}, nil
}

// sqlDialect is what differs between databases beyond a whole statement.
// Times cross the seam as microseconds since 1970 (UTC), the resolution of the wire format.
type sqlDialect interface {
	db.Dialect
	// renumber are the statements around a change of the lanes that keep writers away until it commits, and refuse those
	// who know the old ones afterwards. The first one waits for all who write.
	renumber(names Names, first, last int) (before, after []string)
	// count counts the rows of a table up to the bound at least, and estimates what is beyond. key are the columns of its
	// primary key.
	count(ctx context.Context, db bun.IDB, table, key string, b bound) (Count, error)
	// oldestPerLane is what follows FROM in a query for the first n messages m behind each start l for which due holds;
	// l.n counts the starts. It must read no more rows than that, however long a lane is.
	oldestPerLane(messages, due string, starts []Start, n int) string
	// orderOfClaim is by l.n and, in a lane, by m.id.
	orderOfClaim() string
	// place is an expression for where the row of a table is, for claimedRows.
	place(table string) string
	// claimedRows is a condition that finds claimed rows, and no others that have their identities, without a scan.
	claimedRows(messages string, claimed []*Claimed) schema.QueryWithArgs
	// identities is a query for the identities of those claimed messages that are there. lock ends the part that reads them.
	identities(messages string, claimed []*Claimed, lock string) string
	// waitAtMost stands before a statement that is not in a transaction of inTx, to bound its wait for locks. May be empty.
	waitAtMost(b db.Bounds) string
	// movedRows finds rows that another transaction updates while claimedRows looks for them. hold is a
	// query, to be named l, that locks the rows where they are now; found is the condition that then
	// finds them. hold is empty where claimedRows waits for the other transaction by itself.
	movedRows(messages string, claimed []*Claimed) (hold string, found schema.QueryWithArgs)
	// server is an expression for a text that says which server answers, and since when; empty where there is no server.
	server() string
	// serverQuery is a query for that text, empty where the answer may come from any of several servers.
	serverQuery() string
	// writers is a query for Writers, or empty: rows of Drawn and one of those in Open, or null. Drawn must be read first.
	writers(messages string) string
	// anyOf says that a column has one of the few values that a query returns. It runs once, and it is no way to find rows.
	anyOf(column, query string) string
	// inOrder makes the statements of a transaction read lanes by the index, whatever they guess of their length. May be
	// empty.
	inOrder() string
	// notIn says that an expression has none of many numbers.
	notIn(expression string, numbers []int64) string
	// oneRelay says that the database has one writer, so that a second relay could only get in the way of the first.
	oneRelay() bool
	// compact drops replaced messages of the lanes, as Compact does, looking at up to n messages of each.
	compact(ctx context.Context, tx bun.IDB, s *Store, c compaction) (Compacted, error)
	// supersede does one part of Supersede, and notes what it did.
	supersede(ctx context.Context, s *Store, c *supersession) error
}

func dialectOf(d db.Dialect) sqlDialect {
	return db.ChooseFor[sqlDialect](d, postgres{}, mysql{}, sqlite{})
}
