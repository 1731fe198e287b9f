package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.Registrar = (*Subscriber)(nil)

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
//
// The table is made here, so that it has no part in the version of the file: programs that know
// nothing of it go on with the file.
func (s *Subscriber) Register(ctx context.Context, database string) (before string, err error) {
	if s.config.Queue == "" {
		return "", nil
	}
	err = s.file.write(ctx, made, durable, func(ctx context.Context, tx transaction) error {
		_, err := tx.ExecContext(ctx,
			"CREATE TABLE IF NOT EXISTS databases (queue text PRIMARY KEY, id text NOT NULL) "+
				"STRICT")
		if err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, "SELECT id FROM databases WHERE queue = ?",
			s.config.Queue).Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) || err == nil && before == database {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO databases (queue, id) VALUES (?, ?)"+
			" ON CONFLICT (queue) DO UPDATE SET id = excluded.id", s.config.Queue, database)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("note the database with queue %s: %w", s.config.Queue, err)
	}
	return before, nil
}
