// Package store is the SQL of cqrsync: the ledgers, the outbox, the lanes and the dead letters, per dialect.
//
// outbox, relay and replica decide what must happen to a key; this package is the only place that knows how a
// table is written. Every dialect runs the one conformance suite in internal/store/storetest.
//
// Neighbours: migrations (the tables), outbox, relay, replica (the callers). It imports none of the three.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/dialect/feature"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/migrations"
)

// Names says where the tables are.
type Names struct {
	// Schema qualifies every table. Empty means the connection's search path.
	Schema string
	// Prefix stands before every table name. Empty by default.
	Prefix string
}

// Side is one of the two sets of tables.
type Side string

// The two sides. A service that is a master and a replica has both in one database.
const (
	Outbox  Side = "outbox"
	Replica Side = "replica"
)

// Store runs cqrsync's statements on one database. It is safe for concurrent use.
type Store struct {
	db      *bun.DB
	dialect sqlDialect
	names   Names
	cached  atomic.Pointer[numbering]
	bounds  bounds
	waits   waits
	// migrations is migrations.FS; tests add those of a version to come.
	migrations fs.FS
	packet     atomic.Int64 // how many bytes a statement may have; 0 is not known

	prepared sync.Map // by the text of PlainRows: the *sql.Stmt that Prepare made
	timeline timeline // of the relays that own lanes through this store
	watch    watch    // over the leases of others
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// New checks the names and the dialect; it does not talk to the database.
func New(db *bun.DB, names Names) (*Store, error) {
	if db == nil {
		return nil, errors.New("db is nil: pass the *bun.DB of the service")
	}
	d, err := dialectOf(db)
	if err := errors.Join(err, names.validate(d)); err != nil {
		return nil, err
	}
	return &Store{db: db, dialect: d, names: names, bounds: within(defaultLease), migrations: migrations.FS}, nil
}

// validate makes names safe to stand in SQL text. d may be nil.
func (n Names) validate(d sqlDialect) error {
	err := n.Validate()
	if n.Schema != "" && d == (sqlite{}) {
		return errors.Join(err, fmt.Errorf("schema %q: SQLite has no schemas, use a table prefix or a file of its own", n.Schema))
	}
	return err
}

// Validate checks the names as far as no database need be known.
func (n Names) Validate() error {
	var errs []error
	if n.Schema != "" && !identifier.MatchString(n.Schema) {
		errs = append(errs, fmt.Errorf("schema %q: use letters, digits and underscores", n.Schema))
	}
	if n.Prefix != "" && !identifier.MatchString(n.Prefix) {
		errs = append(errs, fmt.Errorf("table prefix %q: use letters, digits and underscores", n.Prefix))
	}
	return errors.Join(errs...)
}

// DB returns the database the store was made for.
func (s *Store) DB() *bun.DB { return s.db }

// table returns the quoted, qualified name of one of cqrsync's tables.
func (n Names) table(quote, name string) string {
	quoted := quote + n.Prefix + name + quote
	if n.Schema == "" {
		return quoted
	}
	return quote + n.Schema + quote + "." + quoted
}

// table returns a table for use as an argument of a bun query: ? in the text, s.table("outbox_messages") beside it.
func (s *Store) table(name string) bun.Safe {
	return bun.Safe(s.names.table(s.dialect.quote(), name))
}

// sql is a statement in the dialect's quotes. It is written with those of the standard around the columns that are
// reserved words in one of the databases: "key" and "signal".
func (s *Store) sql(statement string) string {
	return strings.ReplaceAll(statement, `"`, s.dialect.quote())
}

// upsert ends an INSERT that gives the columns of the rows it meets the new values.
func (s *Store) upsert(key string, columns ...string) string {
	assignments := make([]string, len(columns))
	for i, c := range columns {
		assignments[i] = c + " = " + s.dialect.proposed(c)
	}
	return " " + s.dialect.onConflict(key) + " " + strings.Join(assignments, ", ")
}

// sqlDialect is what differs between databases beyond a whole statement.
// Times cross the seam as microseconds since 1970 (UTC), the resolution of the wire format.
type sqlDialect interface {
	// name is the folder in migrations.
	name() string
	quote() string
	// now is an expression for the database's clock, as a value of a time column.
	now() string
	// steady is now, and the same throughout a statement.
	steady() string
	// micros reads the time column col as microseconds; null stays null.
	micros(col string) string
	// time is the value of a time column.
	time(t time.Time) any
	// after is an expression for the time expression t moved on by d.
	after(t string, d time.Duration) string
	// greatest is an expression for the larger of two values.
	greatest(a, b string) string
	// lockRows ends a SELECT that reads rows in order to change them, or is empty where a write transaction
	// excludes every other.
	lockRows() string
	// lanesOptions are those of the transactions in which relays lock lanes.
	lanesOptions() *sql.TxOptions
	// laneNumbers is the table whose rows are the lanes that writers may use; they hold a row until they commit. It is
	// empty where a condition on outbox_messages excludes all others.
	laneNumbers() string
	// shareRows ends a SELECT that holds the rows it reads until the transaction ends, as far as that is needed.
	shareRows() string
	// renumber are the statements around a change of the lanes that keep writers away until it commits, and refuse those
	// who know the old ones afterwards. The first one waits for all who write.
	renumber(names Names, first, last int) (before, after []string)
	// onConflict begins the part of an INSERT that updates the rows it meets by their primary key: assignments follow.
	// Some databases make them one after the other, so none may read a column that one before it wrote.
	onConflict(key string) string
	// proposed is, after onConflict, the value that the INSERT would have given the column.
	proposed(col string) string
	// joinPairs is an aggregate that makes the text of Pairs of rows, in their order; or empty. For rows this small, a row
	// each costs more than what is in it.
	joinPairs() string
	// digest is an aggregate that tells two sets of the column KEY apart, whose values count as texts; or empty.
	digest() string
	// count counts the rows of a table up to the bound at least, and estimates what is beyond. key are the columns of its
	// primary key.
	count(ctx context.Context, db bun.IDB, table, key string, b bound) (Count, error)
	// recordsInFunction says that the migrations make the functions outbox_record and outbox_record_many.
	recordsInFunction() bool
	// ledgerMode says how the replica's ledger is read.
	ledgerMode() ledgerMode
	// catalog are the queries of TableShape.
	catalog() catalogQueries
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
	waitAtMost(b bounds) string
	// movedRows finds rows that another transaction updates while claimedRows looks for them. hold is a
	// query, to be named l, that locks the rows where they are now; found is the condition that then
	// finds them. hold is empty where claimedRows waits for the other transaction by itself.
	movedRows(messages string, claimed []*Claimed) (hold string, found schema.QueryWithArgs)
	// created is the value of created_at of a message, nil for that of the database's clock. It must be as fine as that clock
	// is elsewhere, because messages are told apart by it.
	created() any
	// server is an expression for a text that says which server answers, and since when; empty where there is no server.
	server() string
	// serverQuery is a query for that text, empty where the answer may come from any of several servers.
	serverQuery() string
	// places are queries for place, of which the first that works counts; none where nothing tells. table is quoted.
	places(table string, history bool) []string
	// writers is a query for Writers, or empty: rows of Drawn and one of those in Open, or null. Drawn must be read first.
	writers(messages string) string
	// anyOf says that a column has one of the few values that a query returns. It runs once, and it is no way to find rows.
	anyOf(column, query string) string
	// inOrder makes the statements of a transaction read lanes by the index, whatever they guess of their length. May be
	// empty.
	inOrder() string
	// inTx runs fn in a transaction within bounds, which end with it. isolation is the database's own if empty.
	inTx(ctx context.Context, db *bun.DB, b bounds, isolation string, fn func(ctx context.Context, tx bun.IDB) error) error
	// holders are queries for the number, name, state and seconds in it of those for whom others wait, or may have waited. May
	// be empty.
	holders(names Names) (during, afterwards string)
	// inBatch is inTx for InBatch. session is what blockers asks for.
	inBatch(ctx context.Context, db *bun.DB, b bounds, l BatchLimits,
		fn func(ctx context.Context, tx bun.Tx, session int64) error) error
	// briefLock is how long a Brief transaction waits for a lock.
	briefLock() time.Duration
	// blockers is a query like those of holders for whom a session waits for. May be empty.
	blockers(session int64) string
	// notIn says that an expression has none of many numbers.
	notIn(expression string, numbers []int64) string
	// oneRelay says that the database has one writer, so that a second relay could only get in the way of the first.
	oneRelay() bool
	// compact drops replaced messages of the lanes, as Compact does, looking at up to n messages of each.
	compact(ctx context.Context, tx bun.IDB, s *Store, c compaction) (Compacted, error)
	// supersede does one part of Supersede, and notes what it did.
	supersede(ctx context.Context, s *Store, c *supersession) error
	// plainColumns is a query for PlainColumns, or empty.
	plainColumns() string
	// runDeferred is the statement of RunDeferred, or empty.
	runDeferred() string
	// traits is the query of Traits.
	traits(table string) (query string, args []any)
	rowVersion() string
	// lastInserted is the condition of LastInserted.
	lastInserted(table, column, sqlColumn string) string
	// kin is the query of Kin.
	kin(table string) (query string, args []any)
	// behaviour asks the catalog what happens to a table beyond the statements.
	behaviour() behaviourQueries
	// numbers lists the columns of the table ?0 that make numbers of texts, as rows of three texts: the name, nothing,
	// the declared type. Empty where none do.
	numbers() string
	// maxStatement is how many bytes of SQL one statement may have.
	maxStatement() int
	// placeholders stand for n values in a statement that the driver gets as it is.
	placeholders(n int) string
	// packet is a query for how many bytes one statement may have at most, or empty.
	packet() string
	// busy says that the database could not be opened because others were opening it; err may be nil.
	busy(err error) bool
	// transactionalDDL says that a transaction that makes tables can be rolled back.
	transactionalDDL() bool
	// tableExists is a query that says whether the quoted table is there.
	tableExists(table string) string
	// appliedColumns are the columns of a table of applied migrations, in parentheses.
	appliedColumns() string
}

func dialectOf(db *bun.DB) (sqlDialect, error) {
	switch name := db.Dialect().Name(); name {
	case dialect.PG:
		return postgres{}, nil
	case dialect.SQLite:
		return sqlite{}, nil
	case dialect.MySQL:
		if !db.HasFeature(feature.InsertReturning) {
			return nil, errors.New("dialect mysql: cqrsync needs MariaDB 10.6 or newer, which was not there when the " +
				"bun.DB was made: MySQL has no INSERT … RETURNING")
		}
		return mysql{}, nil
	default:
		return nil, fmt.Errorf("dialect %s: cqrsync speaks PostgreSQL, MariaDB and SQLite", strings.ToLower(name.String()))
	}
}

func dialectNamed(name string) (sqlDialect, error) {
	for _, d := range []sqlDialect{postgres{}, mysql{}, sqlite{}} {
		if d.name() == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("dialect %q: want postgres, mysql or sqlite", name)
}
