package outbox

import (
	"context"

	"github.com/uptrace/bun"
)

// Tracked is embedded by registered bun models:
//
//	type Order struct {
//		bun.BaseModel `bun:"table:orders"`
//		outbox.Tracked
//		…
//	}
//
// It has no fields. Its hooks refuse a write of the model on any connection that is not in a [Box.RunInTx], also on
// one the Box has never seen: a second bun.DB, or a copy made before [New]. Capture itself does not depend on it. A
// model that defines one of these hooks itself hides Tracked's; then only databases known to a Box are guarded.
type Tracked struct{}

var (
	_ bun.BeforeInsertHook = Tracked{}
	_ bun.BeforeUpdateHook = Tracked{}
	_ bun.BeforeDeleteHook = Tracked{}
)

// BeforeInsert implements bun.BeforeInsertHook.
func (Tracked) BeforeInsert(ctx context.Context, q *bun.InsertQuery) error {
	return requireSession(ctx, q.DB(), "INSERT", q.GetTableName())
}

// BeforeUpdate implements bun.BeforeUpdateHook.
func (Tracked) BeforeUpdate(ctx context.Context, q *bun.UpdateQuery) error {
	return requireSession(ctx, q.DB(), "UPDATE", q.GetTableName())
}

// BeforeDelete implements bun.BeforeDeleteHook.
func (Tracked) BeforeDelete(ctx context.Context, q *bun.DeleteQuery) error {
	return requireSession(ctx, q.DB(), "DELETE", q.GetTableName())
}

func requireSession(ctx context.Context, db *bun.DB, verb, table string) error {
	if sessionOf(db) != nil || isExplicit(ctx) {
		return nil
	}
	return outsideTx(verb, table)
}
