package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Order is the service's copy of an order: what the message said, lines and all.
type Order struct {
	bun.BaseModel `bun:"table:webhook_orders"`

	ID        int64     `bun:",pk" json:"id"`
	Customer  string    `bun:",notnull" json:"customer"`
	Status    string    `bun:",notnull" json:"status"`
	Total     int64     `bun:",notnull" json:"total"` // cents
	CreatedAt time.Time `bun:",notnull" json:"created_at"`
	UpdatedAt time.Time `bun:",notnull" json:"updated_at"`
	Lines     []Line    `bun:",notnull,type:json" json:"lines"`
	Revision  int64     `bun:"cqrs_revision,notnull" json:"revision"` // filled from the message
}

// Line is one line of an Order.
type Line struct {
	ID       int64  `json:"id"`
	OrderID  int64  `json:"order_id"`
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"` // cents
}

// Subscription is a URL that is told of every order action, or of a day's actions at once.
type Subscription struct {
	bun.BaseModel `bun:"table:webhook_subscriptions"`

	ID        int64     `bun:",pk,autoincrement" json:"id"`
	URL       string    `bun:"url,notnull" json:"url"`
	Secret    string    `bun:",notnull" json:"secret,omitempty"` // shown once, to who made it
	Daily     Daily     `bun:"embed:daily_" json:"daily,omitzero"`
	CreatedAt time.Time `bun:",notnull" json:"created_at"`
}

// Delivery is one order action, or one summary, that one subscriber is told of, and its history.
type Delivery struct {
	bun.BaseModel `bun:"table:webhook_deliveries"`

	ID             int64           `bun:",pk,autoincrement" json:"id"`
	SubscriptionID int64           `bun:",notnull" json:"subscription"`
	OrderID        int64           `bun:",notnull" json:"order,omitempty"` // 0: a summary
	Action         Action          `bun:",notnull" json:"action"`
	MessageID      string          `bun:",notnull" json:"message"` // the same with every attempt
	URL            string          `bun:"url,notnull" json:"url"`
	Body           json.RawMessage `bun:",notnull,type:json" json:"body,omitempty"`
	State          State           `bun:",notnull" json:"state"`
	Tries          int             `bun:",notnull" json:"-"` // since it was last asked for
	NextAt         time.Time       `bun:",notnull" json:"next_at,omitzero"`
	TraceParent    string          `bun:",notnull" json:"-"` // of the change; "" if it had none
	CreatedAt      time.Time       `bun:",notnull" json:"created_at"`
	Attempts       []*Attempt      `bun:"rel:has-many,join:id=delivery_id" json:"attempts,omitempty"`
}

// Attempt is one try to post a delivery.
type Attempt struct {
	bun.BaseModel `bun:"table:webhook_attempts"`

	ID         int64     `bun:",pk,autoincrement" json:"-"`
	DeliveryID int64     `bun:",notnull" json:"-"`
	At         time.Time `bun:",notnull" json:"at"`
	StatusCode int       `bun:",notnull" json:"status_code,omitempty"` // 0: no answer
	Error      string    `bun:",notnull" json:"error,omitempty"`
}

// Action is what happened to an order.
type Action string

// The actions that subscribers are told of.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Deleted   Action = "deleted"
	Triggered Action = "triggered" // nothing happened: somebody asked for it
	Summary   Action = "summary"
)

// State is how far a delivery is.
type State string

// A delivery begins as Pending and ends as one of the others.
const (
	Pending   State = "pending"
	Delivered State = "delivered"
	Failed    State = "failed"    // too many attempts
	Cancelled State = "cancelled" // the subscription went away
)

// createTables makes the service's own tables; cqrsync's are made by Replica.Migrate.
func createTables(ctx context.Context, db *bun.DB) error {
	for _, model := range []any{
		(*Order)(nil), (*Subscription)(nil), (*Delivery)(nil), (*Attempt)(nil), (*news)(nil),
	} {
		if _, err := db.NewCreateTable().Model(model).IfNotExists().Exec(ctx); err != nil {
			return fmt.Errorf("create tables of webhooks: %w", err)
		}
	}
	deliveries := func(name string, columns ...string) *bun.CreateIndexQuery {
		return db.NewCreateIndex().Model((*Delivery)(nil)).Index(name).Column(columns...)
	}
	for _, index := range []*bun.CreateIndexQuery{
		deliveries("webhook_deliveries_due", "subscription_id", "state", "next_at"),
		deliveries("webhook_deliveries_order", "order_id", "subscription_id", "id"),
		deliveries("webhook_deliveries_age", "state", "created_at"),
		db.NewCreateIndex().Model((*Attempt)(nil)).
			Index("webhook_attempts_delivery").Column("delivery_id"),
		db.NewCreateIndex().Model((*news)(nil)).Index("webhook_news_summary").
			Column("subscription_id", "message_id"),
	} {
		if _, err := index.IfNotExists().Exec(ctx); err != nil {
			return fmt.Errorf("create indexes of webhooks: %w", err)
		}
	}
	return nil
}
