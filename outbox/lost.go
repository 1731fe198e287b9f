package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// Some errors end the transaction in the database, not in database/sql: a deadlock on MariaDB, a
// full disk or an interrupted statement on SQLite. Whoever ignores such an error would write on
// without a transaction, each statement committed by itself, and its messages apart from it (P1).

// lostTimeout is how long the question may take whether the transaction is still there.
const lostTimeout = 10 * time.Second

// askWhetherLost asks the database, after an error, whether the transaction is still there.
func (s *session) askWhetherLost(ctx context.Context, event *bun.QueryEvent) {
	var refused *RefusedError
	if s.tx.Tx == nil || errors.As(event.Err, &refused) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lostTimeout)
	defer cancel()
	lost := false
	switch event.DB.Dialect().Name() {
	case dialect.MySQL:
		open := 1
		err := s.tx.Tx.QueryRowContext(ctx, "SELECT @@in_transaction").Scan(&open)
		lost = err == nil && open == 0
	case dialect.SQLite: // which refuses a transaction in a transaction
		if _, err := s.tx.Tx.ExecContext(ctx, "BEGIN"); err == nil {
			lost = true
			_, _ = s.tx.Tx.ExecContext(ctx, "ROLLBACK") // of nothing
		}
	}
	if lost {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lost = event.Err
	}
}

// isLost refuses all statements of a transaction that the database has ended.
func (s *session) isLost(event *bun.QueryEvent) *RefusedError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		return nil
	}
	return &RefusedError{
		Verb: firstWord(event), Reason: "the database has rolled the transaction back after an " +
			"error: " + s.lost.Error(),
		Fix: "return that error from the function that RunInTx runs; RetryInTx runs it again " +
			"where another try may pass",
	}
}

// lostErr is what RunInTx returns then, also where the function ignored the error.
func lostErr(cause error) error {
	return fmt.Errorf("outbox: the database has rolled the transaction back: %w", cause)
}
