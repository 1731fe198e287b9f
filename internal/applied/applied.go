// Package applied is what a replica's database keeps beside the rows of its models: the ledger of
// what was applied, the messages that wait, the dead letters, and what was noticed of masters and
// of other databases behind the queue.
//
// The replica decides what must happen to a key; this package is the only place that knows how that
// is written.
package applied

import "github.com/cqrsync/cqrsync/internal/db"

// Key names one instance of one model.
type Key = db.Key

// Tables are those of one replica. They are safe for concurrent use.
type Tables struct {
	*db.Database
	dialect dialect
}

// New returns the tables of a database.
func New(d *db.Database) *Tables {
	return &Tables{d, db.Choose[dialect](d, postgres{}, mariadb{}, sqlite{})}
}

// dialect is how a database reads and writes the replica's tables.
type dialect interface {
	db.Dialect
	// ledgerMode says how the replica's ledger is read.
	ledgerMode() ledgerMode
	// placeholders stand for n values in a statement that the driver gets as it is.
	placeholders(n int) string
}

type (
	postgres struct{ db.Postgres }
	mariadb  struct{ db.MariaDB }
	sqlite   struct{ db.SQLite }
)

func (postgres) ledgerMode() ledgerMode { return compareLedger }
func (mariadb) ledgerMode() ledgerMode  { return lockLedger }
func (sqlite) ledgerMode() ledgerMode   { return ownLedger }
