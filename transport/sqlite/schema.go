package sqlite

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

// The file says in its header whose it is (application_id, "cqrs" in ASCII) and which tables it has (user_version).
const (
	applicationID = 0x63717273
	schemaVersion = 1
)

// prepare makes the tables, if nobody else has. Any number of processes may do so at once.
func (f *file) prepare(ctx context.Context) error {
	if f.prepared.Load() != nil {
		return nil
	}
	if err := f.transact(ctx, durable, createTables); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	if err := f.useWAL(ctx); err != nil {
		return fmt.Errorf("switch to WAL mode: %w", err)
	}
	prepared, err := prepareStatements(ctx, f.writer)
	if err != nil {
		return fmt.Errorf("prepare statements: %w", err)
	}
	f.prepared.Store(prepared)
	return nil
}

func createTables(ctx context.Context, tx transaction) error {
	var application, version, objects int
	row := tx.QueryRowContext(ctx, "SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_schema)"+
		" FROM pragma_application_id AS a, pragma_user_version AS v")
	if err := row.Scan(&application, &version, &objects); err != nil {
		return err
	}
	switch {
	case application == applicationID && version == schemaVersion:
		return nil
	case application == applicationID:
		return fmt.Errorf("the file's tables have version %d, this program knows %d: use a program as new as the file",
			version, schemaVersion)
	case objects > 0:
		return errors.New("the file belongs to something else: name one for the broker alone")
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d",
		schema, applicationID, schemaVersion))
	return err
}

// useWAL lets readers and the writer work side by side. The switch needs the file for itself for a moment, and SQLite
// does not always wait for it.
func (f *file) useWAL(ctx context.Context) error {
	deadline := time.Now().Add(lockTimeout)
	for {
		_, err := f.writer.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		var e *sqlite.Error
		if !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
