package orders

import (
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

// Order is the tracked entity: one message per order and transaction, with its lines.
type Order struct {
	bun.BaseModel `bun:"table:orders"`
	outbox.Tracked

	ID        int64     `bun:",pk,autoincrement" json:"id"`
	Customer  string    `bun:",notnull" json:"customer"`
	Status    string    `bun:",notnull" json:"status"`
	Total     int64     `bun:",notnull" json:"total"` // cents
	CreatedAt time.Time `bun:",notnull" json:"created_at"`
	UpdatedAt time.Time `bun:",notnull" json:"updated_at"`
	Lines     []*Line   `bun:"rel:has-many,join:id=order_id" json:"lines"`
}

// Line belongs to an order and travels in its message. It is not tracked itself: whoever changes a
// line also changes the order's row, as the functions of this package do.
type Line struct {
	bun.BaseModel `bun:"table:order_lines"`

	ID       int64  `bun:",pk,autoincrement" json:"id"`
	OrderID  int64  `bun:",notnull" json:"-"`
	SKU      string `bun:"sku,notnull" json:"sku"`
	Quantity int64  `bun:",notnull" json:"quantity"`
	Price    int64  `bun:",notnull" json:"price"` // cents
}

// Statuses are the values of Order.Status, in the order an order goes through them.
var Statuses = []string{"new", "paid", "shipped", "cancelled"}
