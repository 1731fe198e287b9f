package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// handle is one file as it was opened. Its path may lead to another one some day.
type handle struct {
	path           string
	identity       atomic.Pointer[sqlitefile.Identity] // nil while it is being opened
	generation     int64
	writer, reader *sql.DB
	prepared       *statements
}

// newHandle opens the file, and makes it and its tables if that is wanted.
func newHandle(ctx context.Context, path string, want wanted) (_ *handle, err error) {
	h := &handle{path: path}
	if h.writer, err = h.connect(want); err != nil {
		return nil, err
	}
	if h.reader, err = h.connect(existing); err != nil {
		return nil, errors.Join(err, h.writer.Close())
	}
	if err = h.prepare(ctx); err == nil {
		err = h.reader.PingContext(ctx) // connects now, not when another file may stand there
	}
	if err == nil {
		var identity sqlitefile.Identity
		identity, err = sqlitefile.Identify(path)
		h.identity.Store(&identity)
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// connect returns a pool of one connection: a writer's place in the queue for it is its place in
// the queue for the lock, and the reader's data_version means something on one connection only.
func (h *handle) connect(want wanted) (*sql.DB, error) {
	mode := "rw"
	if want == made {
		mode = "rwc"
	}
	connector, err := sqlite.NewConnector(sqlitefile.URI(h.path) + fmt.Sprintf(
		"?mode=%s&_txlock=immediate&_pragma=busy_timeout(%d)&_pragma=journal_size_limit(%d)"+
			"&_pragma=wal_autocheckpoint(%d)",
		mode, sqlitefile.LockTimeout.Milliseconds(), journalLimit, checkpointPages(h.path)))
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", h.path, err)
	}
	db := sql.OpenDB(sameFile{connector, h})
	db.SetMaxOpenConns(1)
	return db, nil
}

// sameFile connects to the handle's file only, also when a connection broke and another file stands
// at the path: ids of the one mean nothing in the other.
type sameFile struct {
	driver.Connector
	handle *handle
}

// Connect implements driver.Connector.
func (s sameFile) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := s.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	// SQLite opens the file with the first statement that needs it.
	if _, err := conn.(driver.ExecerContext).ExecContext(ctx, sqlitefile.Touch, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if identity := s.handle.identity.Load(); identity != nil {
		if moved := identity.Moved(); moved != nil {
			return nil, errors.Join(moved, conn.Close())
		}
	}
	return conn, nil
}

func (h *handle) close() error {
	if err := errors.Join(h.reader.Close(), h.writer.Close()); err != nil {
		return fmt.Errorf("close SQLite file %s: %w", h.path, err)
	}
	return nil
}

func (h *handle) transact(
	ctx context.Context, d durability, do func(context.Context, transaction) error,
) error {
	conn, err := h.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = "+string(d)); err != nil {
		return err
	}
	err = h.transactOn(ctx, conn, do)
	if sqlitefile.IsFull(err) {
		// The log may hold what is in the database by now. Without the room that it takes,
		// acknowledgements could not be written, which would make room.
		_, checkpointErr := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
		err = errors.Join(err, checkpointErr)
	}
	return err
}

func (h *handle) transactOn(
	ctx context.Context, conn *sql.Conn, do func(context.Context, transaction) error,
) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	// The driver starts a goroutine for every statement that could be cancelled. Here each takes
	// microseconds, and the transaction ends with ctx all the same.
	if err := do(context.WithoutCancel(ctx), transaction{tx, h.prepared,
		h.generation}); err != nil {
		return err
	}
	return tx.Commit()
}

// waiting counts what waits in the file, for the log. It says nothing where the file does not
// answer.
func (h *handle) waiting(ctx context.Context) map[string]int64 {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	rows, err := h.reader.QueryContext(ctx, "SELECT queue, count(*) FROM messages GROUP BY queue")
	if err != nil {
		return nil
	}
	defer rows.Close()
	waiting := map[string]int64{}
	for rows.Next() {
		var queue string
		var n int64
		if rows.Scan(&queue, &n) == nil {
			waiting[queue] = n
		}
	}
	if rows.Err() != nil {
		return nil
	}
	return waiting
}
