// Package ledger is the two tables of revisions: outbox_revisions at the master, replica_revisions
// at a replica.
//
// A Ledger looks keys up on either side. Revisions draws the master's, which is the rule of P4 and
// P7. What a replica writes into its own is in internal/applied.
package ledger

import (
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Ledger reads the revisions of one side. It is safe for concurrent use.
type Ledger struct {
	*db.Database
	dialect dialect
	table   bun.Safe
	// applied is what the column of the time at which a replica applied a row is read as.
	applied string
}

// NewReplica returns the ledger of a replica.
func NewReplica(d *db.Database) *Ledger { return of(d, db.Replica) }

func of(d *db.Database, side db.Side) *Ledger {
	l := &Ledger{
		Database: d, dialect: db.Choose[dialect](d, postgres{}, mariadb{}, sqlite{}),
		table: d.Table("outbox_revisions"), applied: "NULL",
	}
	if side == db.Replica {
		l.table, l.applied = d.Table("replica_revisions"), d.Dialect().Micros("applied_at")
	}
	return l
}

// Revisions is the master's ledger, for those who write it.
type Revisions struct{ *Ledger }

// NewRevisions returns the master's ledger.
func NewRevisions(d *db.Database) *Revisions { return &Revisions{of(d, db.Outbox)} }

// dialect is how a database reads many keys at once.
type dialect interface {
	db.Dialect
	// joinPairs is an aggregate that makes the text of Pairs of rows, in their order; or empty. For
	// rows this small, a row each costs more than what is in it.
	joinPairs() string
	// digest is an aggregate that tells two sets of the column KEY apart, whose values count as
	// texts; or empty.
	digest() string
	// hashBlock is an aggregate that hashes rows in their order as Sum hashes a block, in hex; or
	// empty.
	hashBlock() string
}

type (
	postgres struct{ db.Postgres }
	mariadb  struct{ db.MariaDB }
	sqlite   struct{ db.SQLite }
)

// digest sums a 64-bit hash.
func (postgres) digest() string {
	return "ROW(count(*), sum(hashtextextended(CAST(KEY AS text), 0)))"
}

func (postgres) joinPairs() string {
	return `coalesce(string_agg("key" || ',' || revision, '],['), '')`
}

// digest sums 60 bits of a hash, exactly: a SUM of texts would be a floating point number.
func (mariadb) digest() string {
	return "CONCAT(count(*), ' ', coalesce(sum(CAST(CONV(LEFT(MD5(KEY), 15), 16, 10) AS " +
		"unsigned)), 0))"
}

// joinPairs is empty: GROUP_CONCAT cuts off at group_concat_max_len.
func (mariadb) joinPairs() string { return "" }

// digest is empty: SQLite has no hash, and looking keys up costs no round trip.
func (sqlite) digest() string { return "" }

// joinPairs is empty: a row costs no round trip here.
func (sqlite) joinPairs() string { return "" }

func (postgres) hashBlock() string {
	return `coalesce(encode(sha256(convert_to(string_agg(
		revision || ' ' || length("key") || ' ' || "key", ''), 'UTF8')), 'hex'), '')`
}

// hashBlock is empty: GROUP_CONCAT cuts off at group_concat_max_len.
func (mariadb) hashBlock() string { return "" }

func (sqlite) hashBlock() string { return "" }
