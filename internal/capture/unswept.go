package capture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun/dialect"
)

// Unswept is how long the oldest note waits for a sweep, and of which model it is; 0 where none
// does. Ask only where [Capture.Keeps] says that there are notes.
func (c *Capture) Unswept(ctx context.Context) (model string, waits time.Duration, err error) {
	age := "extract(epoch FROM clock_timestamp() - noted_at)::float8"
	switch c.db.Dialect().Name() { //nolint:exhaustive // those that have triggers
	case dialect.MySQL:
		age = "timestampdiff(SECOND, noted_at, current_timestamp(6))"
	case dialect.SQLite:
		age = "strftime('%s', 'now') - noted_at"
	}
	var seconds float64
	err = c.db.DB.QueryRowContext(ctx, "SELECT model, "+age+" FROM "+c.qualified("outbox_dirty")+
		" ORDER BY id LIMIT 1").Scan(&model, &seconds)
	if errors.Is(err, sql.ErrNoRows) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("ask for what triggers marked: %w", err)
	}
	return model, time.Duration(seconds * float64(time.Second)), nil
}
