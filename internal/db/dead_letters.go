package db

import (
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// DeadLetterFilter chooses dead letters: those for which everything holds that is set. The zero
// value chooses all.
type DeadLetterFilter struct {
	IDs        []int64
	Model, Key string
	// Before chooses those given up before that time.
	Before time.Time
	// After chooses those with a larger identity: where an earlier page ended.
	After int64
}

// Condition returns what chooses the rows of a table of dead letters.
func (f DeadLetterFilter) Condition(d *Database) (condition string, args []any) {
	conditions := []string{"id > ?"}
	args = append(args, f.After)
	add := func(condition string, arg any) {
		conditions, args = append(conditions, condition), append(args, arg)
	}
	if len(f.IDs) > 0 {
		add("id IN (?)", bun.List(f.IDs))
	}
	if f.Model != "" {
		add("model = ?", f.Model)
	}
	if f.Key != "" {
		add(d.SQL(`"key" = ?`), f.Key)
	}
	if !f.Before.IsZero() {
		add("dead_at < ?", d.dialect.Time(f.Before))
	}
	return strings.Join(conditions, " AND "), args
}
