package master

import (
	"context"
	"fmt"
)

// Announces says that Announce does something here.
func (w *Writer) Announces() bool { return w.dialect.announces() }

// Announce wakes the relays of other processes. Call it outside of every transaction: inside one,
// PostgreSQL would let such transactions commit one at a time.
func (w *Writer) Announce(ctx context.Context) error {
	// Past bun, whose hooks are for the user's statements.
	if _, err := w.DB().DB.ExecContext(ctx, "SELECT pg_notify("+w.Names().WakeChannel()+
		", '')"); err != nil {
		return fmt.Errorf("wake relays: %w", err)
	}
	return nil
}
