package orders

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// Insert, Update and Delete are what an application writes anyway: bun statements in a transaction.
// They know nothing of messages. Run them in Box.RunInTx, alone or several together. Where the
// caller left UpdatedAt out, it is now.

// Insert writes a new order with its lines. With an ID it takes that one: an
// order that was deleted may come back.
func Insert(ctx context.Context, tx bun.Tx, order *Order) error {
	order.Total, order.UpdatedAt = total(order.Lines), stored(order.UpdatedAt)
	order.CreatedAt = order.UpdatedAt
	if _, err := tx.NewInsert().Model(order).Exec(ctx); err != nil {
		return fmt.Errorf("insert order: %w", err)
	}
	return insertLines(ctx, tx, order)
}

// Update replaces the order's customer, status and lines. The order's row is written first: that
// locks it, so that two updates cannot mix their lines.
func Update(ctx context.Context, tx bun.Tx, order *Order) error {
	order.Total, order.UpdatedAt = total(order.Lines), stored(order.UpdatedAt)
	result, err := tx.NewUpdate().Model(order).
		Column("customer", "status", "total", "updated_at").WherePK().Exec(ctx)
	if err := changedOne(result, err, order.ID); err != nil {
		return err
	}
	_, err = tx.NewDelete().Model((*Line)(nil)).Where("order_id = ?", order.ID).Exec(ctx)
	if err != nil {
		return fmt.Errorf("replace lines of order %d: %w", order.ID, err)
	}
	return insertLines(ctx, tx, order)
}

// Delete removes an order; its lines go with it.
func Delete(ctx context.Context, tx bun.Tx, id int64) error {
	result, err := tx.NewDelete().Model(&Order{ID: id}).WherePK().Exec(ctx)
	return changedOne(result, err, id)
}

// ErrNotFound says that there is no such order.
var ErrNotFound = web.ErrNotFound

// Get reads an order with its lines.
func Get(ctx context.Context, db bun.IDB, id int64) (*Order, error) {
	order := &Order{ID: id}
	err := db.NewSelect().Model(order).Relation("Lines", byID).WherePK().Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("order %d: %w", id, ErrNotFound)
	}
	order.CreatedAt, order.UpdatedAt = order.CreatedAt.UTC(), order.UpdatedAt.UTC()
	return order, err
}

// Page reads up to limit orders with their lines, in order of id, beginning behind after.
func Page(ctx context.Context, db bun.IDB, after int64, limit int) ([]Order, error) {
	var page []Order
	err := db.NewSelect().Model(&page).Relation("Lines", byID).
		Where("?TableAlias.id > ?", after).OrderExpr("?TableAlias.id").Limit(int64(limit)).Scan(ctx)
	return page, err
}

func byID(q *bun.SelectQuery) *bun.SelectQuery { return q.OrderExpr("?TableAlias.id") }

func insertLines(ctx context.Context, tx bun.Tx, order *Order) error {
	for _, line := range order.Lines {
		line.ID, line.OrderID = 0, order.ID
	}
	if _, err := tx.NewInsert().Model(&order.Lines).Exec(ctx); err != nil {
		return fmt.Errorf("insert lines of order %d: %w", order.ID, err)
	}
	return nil
}

// changedOne makes an error of a statement that was to change one order and did not.
func changedOne(result sql.Result, err error, id int64) error {
	var n int64
	if err == nil {
		n, err = result.RowsAffected()
	}
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("order %d: %w", id, err)
	}
	return nil
}

func total(lines []*Line) int64 {
	var cents int64
	for _, line := range lines {
		cents += line.Quantity * line.Price
	}
	return cents
}

// stored is the time, or now, in the resolution that databases keep and messages carry.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return t.UTC().Truncate(time.Microsecond)
}

// createTables makes the service's own tables; cqrsync's are made by Box.Migrate.
func createTables(ctx context.Context, db *bun.DB) error {
	_, err := db.NewCreateTable().Model((*Order)(nil)).IfNotExists().Exec(ctx)
	if err != nil {
		return fmt.Errorf("create table orders: %w", err)
	}
	_, err = db.NewCreateTable().Model((*Line)(nil)).IfNotExists().
		ForeignKey("(order_id) REFERENCES orders (id) ON DELETE CASCADE").Exec(ctx)
	if err != nil {
		return fmt.Errorf("create table order_lines: %w", err)
	}
	_, err = db.NewCreateIndex().Model((*Line)(nil)).
		Index("order_lines_order_id").Column("order_id").IfNotExists().Exec(ctx)
	if err != nil {
		return fmt.Errorf("create index order_lines_order_id: %w", err)
	}
	return nil
}
