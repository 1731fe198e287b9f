package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// statements are those that every message passes through. SQLite takes longer to parse one than to
// run it, so the writer keeps them prepared.
type statements struct{ insert, trim, take, remove, putBack *sql.Stmt }

func prepareStatements(ctx context.Context, writer *sql.DB) (*statements, error) {
	prepared := &statements{}
	for _, s := range []struct {
		to   **sql.Stmt
		text string
	}{
		// Routes as it stores: a row for each queue bound to the topic.
		{&prepared.insert, fmt.Sprintf(`INSERT INTO messages
				(queue, uuid, metadata, payload, published_at, expires_at)
			SELECT queue, ?2, ?3, ?4, ?5, CASE WHEN inbox_used_at = 0 THEN ?6
				WHEN ?6 = 0 THEN ?5 + %[1]d ELSE min(?6, ?5 + %[1]d) END
			FROM bindings WHERE topic = ?1`, inbox.TTL.Milliseconds())},

		// Drops the oldest messages of the topic's inbox, if it has one, which is called like it.
		{&prepared.trim, `DELETE FROM messages WHERE id IN
			(SELECT id FROM messages WHERE consumer = 0 AND queue =
				(SELECT queue FROM bindings WHERE topic = ?1 AND queue = ?1 AND inbox_used_at > 0)
			ORDER BY id DESC LIMIT -1 OFFSET ?2)`},

		{&prepared.take, `UPDATE messages SET consumer = ?1
			WHERE id IN (SELECT id FROM messages WHERE consumer = 0 AND queue = ?2 ORDER BY id LIMIT ?3)
			RETURNING id, uuid, metadata, payload, expires_at`},

		// Does not ask who has the message now: whoever acknowledged it has handled it, even if its
		// lease ran out.
		{&prepared.remove, `DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?1))`},

		// Leaves alone what another consumer has by now.
		{&prepared.putBack, `UPDATE messages SET consumer = 0
			WHERE consumer = ?1 AND id IN (SELECT value FROM json_each(?2))`},
	} {
		//nolint:sqlclosecheck // closes with the writer
		statement, err := writer.PrepareContext(ctx, s.text)
		if err != nil {
			return nil, err
		}
		*s.to = statement
	}
	return prepared, nil
}

// transaction holds the write lock.
type transaction struct {
	*sql.Tx
	*statements
	generation int64
}

func (t transaction) run(ctx context.Context, statement *sql.Stmt, args ...any) error {
	bound := t.StmtContext(ctx, statement)
	defer bound.Close()
	_, err := bound.ExecContext(ctx, args...)
	return err
}
