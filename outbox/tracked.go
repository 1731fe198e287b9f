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
// It has no fields. Its hooks refuse a write of the model on any connection that is not in a
// [Box.RunInTx], also on one the Box has never seen: a second bun.DB, or a copy made before [New],
// and of a model that is not registered. Capture itself does not depend on it. A model that defines
// one of these hooks itself hides Tracked's; then only databases known to a Box are guarded.
type Tracked struct{}

var (
	_ bun.BeforeInsertHook = Tracked{}
	_ bun.BeforeUpdateHook = Tracked{}
	_ bun.BeforeDeleteHook = Tracked{}
)

// BeforeInsert implements bun.BeforeInsertHook.
func (Tracked) BeforeInsert(ctx context.Context, q *bun.InsertQuery) error {
	return requireSession(ctx, q.DB(), "INSERT", q.GetTableName(), q.GetModel())
}

// BeforeUpdate implements bun.BeforeUpdateHook.
func (Tracked) BeforeUpdate(ctx context.Context, q *bun.UpdateQuery) error {
	return requireSession(ctx, q.DB(), "UPDATE", q.GetTableName(), q.GetModel())
}

// BeforeDelete implements bun.BeforeDeleteHook.
func (Tracked) BeforeDelete(ctx context.Context, q *bun.DeleteQuery) error {
	return requireSession(ctx, q.DB(), "DELETE", q.GetTableName(), q.GetModel())
}

func requireSession(ctx context.Context, db *bun.DB, verb, table string, model bun.Model) error {
	if isExplicit(ctx) {
		return nil
	}
	s := sessionOf(db)
	if s == nil {
		return outsideTx(verb, table)
	}
	if given, isModel := model.(bun.TableModel); isModel && !s.box.knows(given.Table()) {
		return &RefusedError{verb, table, given.Table().TypeName + " embeds outbox.Tracked and is not registered with the Box of " +
			"this transaction", "register it, and all models that one transaction writes, with one Box, or take outbox.Tracked out of it"}
	}
	return nil
}
