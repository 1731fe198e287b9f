package queue

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// What tests of this package change or ask that nobody else may.

// Bound is how far rows are counted.
type Bound = bound

// CountBound is that of Status.
var CountBound = &countBound

// BoundOf makes one.
func BoundOf(rows, pages int64) Bound { return Bound{rows: rows, pages: pages} }

// CountUpTo counts the rows of a table with the key id.
func (q *Queue) CountUpTo(ctx context.Context, table bun.Safe, b Bound) (Count, error) {
	return q.dialect.count(ctx, q.DB(), string(table), "id", b)
}

// PretendServer takes another server for the one that answered last.
func (q *Queue) PretendServer(server string) { q.timeline.server = server }

// ForgetAnswer forgets when it answered.
func (q *Queue) ForgetAnswer() { q.timeline.asked = time.Time{} }
