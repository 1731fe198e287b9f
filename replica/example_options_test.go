package replica_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// One call gets the newest event of each key that the transaction takes.
func ExampleHandleBatch() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()

	type Order struct{ Total int64 }
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	check(err)
	check(replica.HandleBatch(rep, "order", func(ctx context.Context, tx bun.Tx, events []replica.Event[Order]) error {
		var sum int64
		for _, e := range events {
			sum += e.Data.Total
		}
		fmt.Println(len(events), "orders, together", sum) // one statement through tx would count them all
		return nil
	}))
	check(rep.Migrate(ctx))
	check(rep.Handler()(delivered(envelope.Save, 0, `{"id":7,"total":1230}`)))
	// Output:
	// 1 orders, together 1230
}

type OrderWithLines struct {
	bun.BaseModel `bun:"table:orders"`

	ID     int64 `bun:",pk"`
	Status string
	Lines  []*OrderLine `bun:"rel:has-many,join:id=order_id"`
}

type OrderLine struct {
	bun.BaseModel `bun:"table:order_lines"`

	OrderID int64  `bun:",pk"`
	Product string `bun:",pk"`
	Count   int64
}

// The rows within a message go into a table of their own; those that a later message lacks are deleted.
func ExampleChildren() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()
	for _, model := range []any{(*OrderWithLines)(nil), (*OrderLine)(nil)} {
		_, err := db.NewCreateTable().Model(model).Exec(ctx)
		check(err)
	}
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	check(err)
	check(replica.Register[OrderWithLines](rep, "order", replica.Children("Lines")))
	check(rep.Migrate(ctx))

	handler := rep.Handler()
	check(handler(delivered(envelope.Save, 0,
		`{"id":7,"status":"new","lines":[{"product":"pen","count":2},{"product":"ink","count":1}]}`)))
	check(handler(delivered(envelope.Save, 1, `{"id":7,"status":"paid","lines":[{"product":"pen","count":3}]}`)))
	var lines []OrderLine
	check(db.NewSelect().Model(&lines).Scan(ctx))
	for _, line := range lines {
		fmt.Println("order", line.OrderID, "has", line.Count, line.Product)
	}
	// Output:
	// order 7 has 3 pen
}

// A service that has a Watermill Router adds the replica to it, in place of Run.
func ExampleReplica_AddHandlers() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	db, cleanUp := openDatabase()
	defer cleanUp()
	_, err := db.NewCreateTable().Model((*OrderRef)(nil)).Exec(ctx)
	check(err)
	rep, err := replica.New(db, replica.Config{Queue: "webhooks", Logger: slog.New(slog.DiscardHandler)})
	check(err)
	check(replica.Register[OrderRef](rep, "order"))
	check(rep.Migrate(ctx))

	broker := memory.New()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	check(err)
	check(rep.AddHandlers(router, broker.Subscriber("webhooks")))
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	<-router.Running()

	out := transport.Outgoing{Topic: "order", Message: delivered(envelope.Save, 0, `{"id":7,"status":"paid"}`)}
	for _, err := range broker.Publisher().PublishBatch(ctx, []transport.Outgoing{out}) {
		check(err)
	}
	check(rep.WaitFor(ctx, "order", "7", 0))
	fmt.Println("order 7 is here")
	stop()
	check(<-ended)
	// Output:
	// order 7 is here
}
