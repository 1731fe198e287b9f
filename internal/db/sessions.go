package db

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// sessions is what this package needs to know of a database's sessions, and of what they hold
// locked.
type sessions interface {
	// inTx runs fn in a transaction within bounds, which end with it. isolation is the database's
	// own if empty.
	inTx(ctx context.Context, db *bun.DB, b Bounds, isolation string,
		fn func(ctx context.Context, tx bun.IDB) error) error
	// inBatch is inTx for InBatch. session is what blockers asks for.
	inBatch(ctx context.Context, db *bun.DB, b Bounds, l BatchLimits,
		fn func(ctx context.Context, tx bun.Tx, session int64) error) error
	// briefLock is how long a Brief transaction waits for a lock.
	briefLock() time.Duration
	// holders are queries for the number, name, state and seconds in it of those for whom others
	// wait, or may have waited. May be empty.
	holders(names Names) (during, afterwards string)
	// blockers is a query like those of holders for whom a session waits for. May be empty.
	blockers(session int64) string
	// packet is a query for how many bytes one statement may have at most, or empty.
	packet() string
	// readOnly is a query that says whether the server takes no writes, or empty where its errors
	// say that.
	readOnly() string
	// settings is a query for what a session does to values: its modes, the time ?0 of a clock as a
	// moment, and ?1 as a text. It is empty where a session changes none.
	settings() string
	// places are queries for Place, of which the first that works counts; none where nothing tells.
	// table is quoted.
	places(table string, history bool) []string
}

type (
	postgresSessions struct{}
	mariadbSessions  struct{}
	sqliteSessions   struct{}
)

func (postgresSessions) packet() string { return "" }
func (mariadbSessions) packet() string  { return "SELECT @@max_allowed_packet" }
func (sqliteSessions) packet() string   { return "" }

func (postgresSessions) readOnly() string { return "" }
func (mariadbSessions) readOnly() string {
	return "SELECT @@global.read_only OR @@session.tx_read_only"
}
func (sqliteSessions) readOnly() string { return "" }

func (postgresSessions) settings() string { return "" }
func (mariadbSessions) settings() string {
	return "SELECT @@sql_mode AS mode, from_unixtime(?) AS moment, CAST(? AS datetime) AS stated"
}
func (sqliteSessions) settings() string { return "" }
