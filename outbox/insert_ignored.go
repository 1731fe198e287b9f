package outbox

import (
	"context"
	"errors"
	"fmt"
	"reflect"
)

// duplicate is what MariaDB says of a row that IGNORE skipped because its key is taken.
const duplicate = 1062

// askWarnings refuses an INSERT IGNORE that stored a row under another key than it names. IGNORE
// makes warnings of errors: MariaDB cuts a text, and takes the nearest number, where a key does not
// fit its column.
func (s *session) askWarnings(ctx context.Context, c *captured) (err error) {
	var all int
	if err := s.quiet().QueryRowContext(ctx, "SHOW COUNT(*) WARNINGS").Scan(&all); err != nil ||
		all == 0 {
		return err
	}
	rows, err := s.quiet().QueryContext(ctx, "SHOW WARNINGS")
	if err != nil {
		return fmt.Errorf("ask for the warnings of an INSERT IGNORE: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	changed := all // it lists some only
	for rows.Next() {
		var level, message string
		var code int
		if err := rows.Scan(&level, &code, &message); err != nil {
			return fmt.Errorf("read the warnings of an INSERT IGNORE: %w", err)
		}
		if code == duplicate {
			changed--
		}
	}
	if err := rows.Err(); err != nil || changed == 0 {
		return err
	}
	var named []reflect.Value
	for i, row := range c.rows {
		if c.insert.literal[i] {
			named = append(named, row)
		}
	}
	there, err := c.model.stored(ctx, s.quiet(), named)
	if err != nil || len(there) >= len(named) {
		return err
	}
	return unseen("INSERT", c.model.table.Name,
		"MariaDB changed values of its rows to store them (SHOW WARNINGS), and does not find them "+
			"by the keys that they name: give keys that fit their column")
}
