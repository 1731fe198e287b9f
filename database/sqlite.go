package database

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// BusyError says that a SQLite file was locked by others for longer than a writer waits: ten
// seconds. It names the file. Nothing was written; the same transaction, run again, may pass, and
// outbox.Box.RetryInTx runs it again.
type BusyError = sqlitefile.BusyError

// MovedError says that a SQLite file was deleted, moved away or replaced while it was open. After a
// commit it means that what was committed is in the file that is gone.
type MovedError = sqlitefile.MovedError

// OpenExisting is [Open] for a database that must be there: a SQLite file that is not there is an
// error of the first statement, where Open makes it, unless the URL says mode=rwc. A mistyped path
// is found that way.
func OpenExisting(rawURL string) (*bun.DB, error) {
	if rest, found := strings.CutPrefix(rawURL, "sqlite://"); found {
		return openSQLite(rest, modeExisting)
	}
	return Open(rawURL)
}

// What mode says in a URL, as in SQLite's own.
const (
	modeCreate   = "rwc" // the default
	modeExisting = "rw"
	modeRead     = "ro"
)

// Handles of SQLite: how many may work at the same time, and how many stay open with nothing to do.
const (
	sqliteConns     = 256
	sqliteIdleConns = 8
)

func openSQLite(rest, mode string) (*bun.DB, error) {
	name, query, _ := strings.Cut(rest, "?")
	path, err := sqlitefile.Path(name)
	mode, optionErr := sqliteMode(query, mode)
	if err := errors.Join(err, optionErr); err != nil {
		return nil, fmt.Errorf("database URL %q: %w", "sqlite://"+rest, err)
	}
	dsn := sqlitefile.URI(path) + fmt.Sprintf("?_pragma=busy_timeout(%d)&_pragma=foreign_keys(1)",
		sqlitefile.LockTimeout.Milliseconds())
	if mode != modeRead {
		dsn += "&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate" +
			fmt.Sprintf("&_pragma=journal_size_limit(%d)", journalLimit)
	}
	connect := func(mode string) (sqliteConn, error) {
		base, err := sqlite.NewConnector(dsn + "&mode=" + mode)
		if err != nil {
			return nil, err
		}
		return openConn(base)
	}
	db := sql.OpenDB(&fileConnector{path: path, mode: mode, connect: connect, turns: turnsOf(path)})
	// Who waits for a turn to write has a connection, but no handle yet, so there may be many: the
	// transaction that they wait for may itself want to read through the database.
	db.SetMaxOpenConns(sqliteConns)
	db.SetMaxIdleConns(sqliteIdleConns)
	return bun.NewDB(db, sqlitedialect.New()), nil
}

// journalLimit is what the write-ahead log keeps of its size, in bytes, when it begins anew.
const journalLimit = 64 << 20

func sqliteMode(query, mode string) (string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", fmt.Errorf("the options %q cannot be read: a ? in the URL begins them, and "+
			"cannot stand in the file's name; want mode=ro, mode=rw or mode=rwc", query)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		switch {
		case name != "mode":
			errs = append(errs,
				fmt.Errorf("unknown option %q: a ? in the URL begins the options, and cannot "+
					"stand in the file's name; want mode=ro, mode=rw or mode=rwc", name))
		case value != modeRead && value != modeExisting && value != modeCreate:
			errs = append(errs,
				fmt.Errorf("mode is %q: want ro (read only), rw (the file must be there) or rwc",
					value))
		default:
			mode = value
		}
	}
	if mode == "" {
		mode = modeCreate
	}
	return mode, errors.Join(errs...)
}
