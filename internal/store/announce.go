package store

import (
	"context"
	"fmt"
)

// Announces says that Announce does something here.
func (s *Store) Announces() bool { return s.dialect.announces() }

// Announce wakes the relays of other processes. Call it outside of every transaction: inside one, PostgreSQL would let
// such transactions commit one at a time.
func (s *Store) Announce(ctx context.Context) error {
	// Past bun, whose hooks are for the user's statements.
	if _, err := s.DB().DB.ExecContext(ctx, "SELECT pg_notify("+s.Names().WakeChannel()+", '')"); err != nil {
		return fmt.Errorf("wake relays: %w", err)
	}
	return nil
}
