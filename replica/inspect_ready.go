package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Check fails where the replica's tables are missing or older than this version, and where the
// table of a mirrored model does not fit its struct. Run asks the same of all models at its start;
// whoever uses Apply or the look-ups alone asks here, because Apply waits for a database in
// trouble.
func (r inspected) Check(ctx context.Context, model string) error {
	b, err := r.bindingOf(model)
	if err != nil {
		return err
	}
	return r.checkTables(ctx, b)
}

// errProbed undoes what CheckWrites wrote.
var errProbed = errors.New("the database takes writes")

// CheckWrites is Check, and fails as well where the database takes no writes.
func (r inspected) CheckWrites(ctx context.Context, model string) error {
	if err := r.Check(ctx, model); err != nil || r.tables == nil {
		return err
	}
	err := r.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		probe := db.Key{Model: model, Key: "cqrsync: does the ledger take writes?"}
		if _, err := r.tables.LockApplied(ctx, tx, []db.Key{probe}); err != nil {
			return err
		}
		return errProbed
	})
	switch {
	case errors.Is(err, errProbed):
		return nil
	case r.tables.TakesNoWrites(ctx, err):
		return fmt.Errorf("replica: the database takes no writes, as a standby, a demoted primary "+
			"or one that was set to be read only: name the primary, or make it writable: %w", err)
	default:
		return fmt.Errorf("replica: write into the ledger: %w", err)
	}
}

// Count returns how many rows the replica has of a model, or most where there are more; of a model
// with a handler, how many keys the ledger has as live. It reads no more than most.
func (r inspected) Count(ctx context.Context, model string, most int64) (int64, error) {
	b, err := r.bindingOf(model)
	if err != nil || most <= 0 {
		return 0, err
	}
	var n int64
	if !isMirror(b) {
		n, err = r.ledger.CountLive(ctx, r.db, model, most)
	} else {
		rows := b.everyRow(r.db.NewSelect().Model(b.table.ZeroIface).ColumnExpr("1 AS one")).Limit(most)
		if owned := b.owned(r.db.QueryGen(), string(b.table.SQLAlias)+"."); owned != "" {
			rows = rows.Where("?", bun.Safe(owned))
		}
		err = r.db.NewSelect().TableExpr("(?) AS counted", rows).ColumnExpr("count(*)").Scan(ctx,
			&n)
	}
	if err != nil {
		return 0, fmt.Errorf("replica: count the rows of model %q: %w", model, err)
	}
	return n, nil
}
