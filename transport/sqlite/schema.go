package sqlite

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

//go:embed schema.sql
var schema string

// The file says in its header whose it is (application_id, "cqrs" in ASCII) and which tables it has
// (user_version).
const (
	applicationID = 0x63717273
	schemaVersion = 3
)

// upgrades make tables of the version that they stand at into those of the next one.
var upgrades = [schemaVersion]string{
	1: "ALTER TABLE consumers ADD COLUMN queue text NOT NULL DEFAULT ''",
	2: "ALTER TABLE bindings ADD COLUMN inbox_used_at integer NOT NULL DEFAULT 0;" +
		" ALTER TABLE messages ADD COLUMN expires_at integer NOT NULL DEFAULT 0;" +
		" CREATE INDEX messages_by_expiry ON messages (expires_at) WHERE expires_at > 0",
}

// prepare makes the tables, if nobody else has. Any number of processes may do so at once.
func (h *handle) prepare(ctx context.Context) (err error) {
	if err := h.transact(ctx, durable, createTables); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	if err := h.useWAL(ctx); err != nil {
		return fmt.Errorf("switch to WAL mode: %w", err)
	}
	if h.prepared, err = prepareStatements(ctx, h.writer); err != nil {
		return fmt.Errorf("prepare statements: %w", err)
	}
	return nil
}

func createTables(ctx context.Context, tx transaction) error {
	var application, version, objects int
	row := tx.QueryRowContext(ctx,
		"SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_schema) FROM "+
			"pragma_application_id AS a, pragma_user_version AS v")
	if err := row.Scan(&application, &version, &objects); err != nil {
		return err
	}
	switch {
	case application == applicationID && version == schemaVersion:
		return nil
	case application == applicationID && version >= 1 && version < schemaVersion:
		return upgrade(ctx, tx, version)
	case application == applicationID:
		return fmt.Errorf("the file's tables have version %d, this program knows %d: use a "+
			"program as new as the file",
			version, schemaVersion)
	case objects > 0:
		return errors.New("the file belongs to something else: name one for the broker alone")
	}
	_, err := tx.ExecContext(ctx,
		fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d",
			schema, applicationID, schemaVersion))
	return err
}

func upgrade(ctx context.Context, tx transaction, version int) error {
	for _, step := range upgrades[version:] {
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
	return err
}

// useWAL lets readers and the writer work side by side. The switch needs the file for itself for a
// moment, and SQLite does not always wait for it.
func (h *handle) useWAL(ctx context.Context) error {
	deadline := time.Now().Add(sqlitefile.LockTimeout)
	for {
		_, err := h.writer.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		if !sqlitefile.IsBusy(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
