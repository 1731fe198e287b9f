package store

import (
	"context"
	"fmt"
)

// WakeChannel is an expression for the name of the channel on which writers tell relays that there is something to
// publish: one for each outbox of a PostgreSQL database. It is null where there is no outbox.
func (n Names) WakeChannel() string {
	return "'cqrsync_outbox_' || to_regclass('" + n.table(`"`, "outbox_messages") + "')::oid"
}

// Announces says that Announce does something here.
func (s *Store) Announces() bool { return s.dialect == postgres{} }

// Announce wakes the relays of other processes. Call it outside of every transaction: inside one, PostgreSQL would let
// such transactions commit one at a time.
func (s *Store) Announce(ctx context.Context) error {
	// Past bun, whose hooks are for the user's statements.
	if _, err := s.db.DB.ExecContext(ctx, "SELECT pg_notify("+s.names.WakeChannel()+", '')"); err != nil {
		return fmt.Errorf("wake relays: %w", err)
	}
	return nil
}
