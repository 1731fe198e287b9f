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
	return requireSession(ctx, q, "INSERT", q.GetTableName())
}

// BeforeUpdate implements bun.BeforeUpdateHook.
func (Tracked) BeforeUpdate(ctx context.Context, q *bun.UpdateQuery) error {
	return requireSession(ctx, q, "UPDATE", q.GetTableName())
}

// BeforeDelete implements bun.BeforeDeleteHook.
func (Tracked) BeforeDelete(ctx context.Context, q *bun.DeleteQuery) error {
	return requireSession(ctx, q, "DELETE", q.GetTableName())
}

// trackedQuery is one that writes rows of a tracked model.
type trackedQuery interface {
	bun.Query
	DB() *bun.DB
}

func requireSession(ctx context.Context, q trackedQuery, verb, table string) error {
	if isExplicit(ctx) {
		return nil
	}
	s := sessionOf(q.DB())
	if s == nil {
		refused := outsideTx(verb, table)
		if observerOf(q.DB(), q.GetModel()).allowsQuery(ctx, q, refused) {
			return nil
		}
		return refused
	}
	if given, isModel := q.GetModel().(bun.TableModel); isModel && !s.box.knows(given.Table()) {
		refused := &RefusedError{verb, table,
			given.Table().TypeName +
				" embeds outbox.Tracked and is not registered with the Box of this transaction",
			"register it, and all models that one transaction writes, with one Box, " +
				"or take outbox.Tracked out of it"}
		if !s.box.observer.allows(ctx, refused) {
			return refused
		}
	}
	return nil
}
