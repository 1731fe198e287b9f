package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// handle is one file as it was opened. Its path may lead to another one some day.
type handle struct {
	path           string
	identity       sqlitefile.Identity
	generation     int64
	writer, reader *sql.DB
	prepared       *statements
}

func newHandle(ctx context.Context, path string, want wanted) (*handle, error) {
	h := &handle{path: path}
	var err error
	if h.writer, err = connect(path, want); err != nil {
		return nil, err
	}
	if h.reader, err = connect(path, existing); err != nil {
		return nil, errors.Join(err, h.writer.Close())
	}
	if err = h.prepare(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// connect returns a pool of one connection: a writer's place in the queue for it is its place in the queue for the
// lock, and the reader's data_version means something on one connection only.
func connect(path string, want wanted) (*sql.DB, error) {
	mode := "rw"
	if want == made {
		mode = "rwc"
	}
	db, err := sql.Open("sqlite", sqlitefile.URI(path)+fmt.Sprintf(
		"?mode=%s&_txlock=immediate&_pragma=busy_timeout(%d)&_pragma=journal_size_limit(%d)",
		mode, sqlitefile.LockTimeout.Milliseconds(), journalLimit))
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func (h *handle) close() error {
	if err := errors.Join(h.reader.Close(), h.writer.Close()); err != nil {
		return fmt.Errorf("close SQLite file %s: %w", h.path, err)
	}
	return nil
}

func (h *handle) transact(ctx context.Context, d durability, do func(context.Context, transaction) error) error {
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
		// The log may hold what is in the database by now. Without the room that it takes, acknowledgements could not be
		// written, which would make room.
		_, checkpointErr := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
		err = errors.Join(err, checkpointErr)
	}
	return err
}

func (h *handle) transactOn(ctx context.Context, conn *sql.Conn, do func(context.Context, transaction) error) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	// The driver starts a goroutine for every statement that could be cancelled. Here each takes microseconds, and the
	// transaction ends with ctx all the same.
	if err := do(context.WithoutCancel(ctx), transaction{tx, h.prepared, h.generation}); err != nil {
		return err
	}
	return tx.Commit()
}

// waiting counts what waits in the file, for the log. It says nothing where the file does not answer.
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
