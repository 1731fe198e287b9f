package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/memory"
)

type order struct {
	outbox.Tracked
	ID     int64 `bun:",pk,autoincrement"`
	Status string
}

// A relay in the process that writes: it is handed what was committed. As a process of its own it is cmd/relay.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := example(ctx, stop); err != nil {
		fmt.Println(err)
	}
	// Output: published 1 message
}

func example(ctx context.Context, stop func()) error {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := database.Open("sqlite://" + filepath.Join(dir, "orders.db"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return err
	}
	if err := outbox.Register[order](box, "order"); err != nil {
		return err
	}
	if err := box.Migrate(ctx); err != nil {
		return err
	}
	if _, err := db.NewCreateTable().Model((*order)(nil)).Exec(ctx); err != nil {
		return err
	}
	err = box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&order{Status: "new"}).Exec(ctx)
		return err
	})
	if err != nil {
		return err
	}

	broker := memory.New()
	subscriber := broker.Subscriber("webhooks")
	defer func() { _ = subscriber.Close() }()
	orders, err := subscriber.Subscribe(ctx, "order")
	if err != nil {
		return err
	}
	rel, err := relay.New(db, broker.Publisher(), relay.Config{Handover: box.Handover(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	go func() {
		(<-orders).Ack()
		stop() // a service would stop at a signal
	}()
	if err := rel.Run(ctx); err != nil {
		return err
	}
	fmt.Println("published", rel.Stats().Published, "message")
	return nil
}
