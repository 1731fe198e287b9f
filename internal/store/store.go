// Package store is all rooms with tables behind one type, for tests that prepare and inspect a whole database. What is
// no test names the room it needs.
package store

import (
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/outgoing"
	"github.com/cqrsync/cqrsync/internal/queue"
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
	Claimed               = queue.Claimed
	DeadLetter            = queue.DeadLetter
	Incarnation           = queue.Incarnation
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
	*queue.Queue
}

// New checks the names and the dialect; it does not talk to the database.
func New(bunDB *bun.DB, names Names) (*Store, error) {
	d, err := db.New(bunDB, names)
	if err != nil {
		return nil, err
	}
	return &Store{
		Database: d, Revisions: ledger.NewRevisions(d), Writer: master.New(d), Queue: queue.New(d),
		Migrator: tables.New(d), Catalog: catalog.New(d), Tables: applied.New(d),
	}, nil
}
