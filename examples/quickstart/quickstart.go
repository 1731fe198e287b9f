// Package quickstart is the code that the README shows: a master and a replica in ten lines each.
// Its test runs it and compares the README with it.
package quickstart

import (
	"context"
	"errors"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// Order is the master's model.
type Order struct {
	bun.BaseModel `bun:"table:orders"`
	outbox.Tracked

	ID     int64 `bun:",pk,autoincrement"`
	Status string
	Total  int64
}

// OrderCopy is what a replica keeps of it.
type OrderCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID     int64 `bun:",pk"`
	Status string
}

// Master writes an order; the message commits with it.
func Master(ctx context.Context, db *bun.DB) error {
	// README: master
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return err
	}
	_ = outbox.Register[Order](box, "order", outbox.Triggers()) // RunInTx repeats its error
	return box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&Order{Status: "new", Total: 4200}).Exec(ctx)
		return err
	})
	// README: end
}

// Replica keeps order_copies equal to the master's orders until ctx ends.
func Replica(ctx context.Context, db *bun.DB, broker string) error {
	// README: replica
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	subscriber, err2 := open.Subscriber(broker, "stats", open.Options{})
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	defer subscriber.Close()
	_ = replica.Register[OrderCopy](rep, "order") // Run repeats its error
	return rep.Run(ctx, subscriber)
	// README: end
}
