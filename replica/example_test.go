package replica_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
)

// OrderRef is what the webhooks service keeps of an order: a mirror has the columns it needs, not all of them.
type OrderRef struct {
	ID     int64 `bun:",pk"`
	Status string
}

func ExampleRegister() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()
	_, err := db.NewCreateTable().Model((*OrderRef)(nil)).Exec(ctx)
	check(err)

	rep, err := replica.New(db, replica.Config{Queue: "webhooks"})
	check(err)
	check(replica.Register[OrderRef](rep, "order"))
	check(rep.Migrate(ctx))

	// rep.Run(ctx, subscriber) would call the handler for what a broker delivers, in whatever order.
	handler := rep.Handler()
	check(handler(delivered(envelope.Save, 1, `{"id":7,"status":"paid","total":"12.30"}`)))
	check(handler(delivered(envelope.Save, 0, `{"id":7,"status":"new","total":"12.30"}`)))
	check(handler(delivered(envelope.Save, 1, `{"id":7,"status":"paid","total":"12.30"}`)))

	var order OrderRef
	check(db.NewSelect().Model(&order).Where("id = 7").Scan(ctx))
	stats := rep.Stats()
	fmt.Println(order.Status)
	fmt.Printf("applied %d, stale %d, duplicate %d\n", stats.Applied, stats.Stale, stats.Duplicates)
	// Output:
	// paid
	// applied 1, stale 1, duplicate 1
}

func ExampleHandle() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()

	type Line struct {
		Product  string
		Quantity int
	}
	type Order struct {
		ID    int64
		Total string // a decimal, exact
		Lines []Line
	}
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	check(err)
	check(replica.Handle(rep, "order", func(ctx context.Context, tx bun.Tx, order replica.Event[Order]) error {
		fmt.Println(order.Signal, "of order", order.Key, "with", order.Data.Lines, "for", order.Data.Total)
		return nil // what is written through tx is committed together with the order's revision
	}))
	check(rep.Migrate(ctx))

	handler := rep.Handler()
	check(handler(delivered(envelope.Save, 0, `{"id":7,"total":12.30,"lines":[{"product":"pen","quantity":2}]}`)))
	check(handler(delivered(envelope.Delete, 1, `{"id":7}`)))
	// Output:
	// SAVE of order 7 with [{pen 2}] for 12.30
	// DELETE of order 7 with [] for
}

func ExampleHandleFunc() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()

	type Order struct {
		ID     int64
		Status string
	}
	rep, err := replica.New(db, replica.Config{Queue: "webhooks", Workers: 16, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	check(replica.HandleFunc(rep, "order", func(ctx context.Context, order replica.Event[Order]) error {
		if order.Data.Status == "draft" {
			return replica.Discard(fmt.Errorf("order %s is a draft", order.Key))
		}
		fmt.Println("POST /hooks", order.Key, "revision", order.Revision, order.Data.Status)
		return nil // any other error: again later, by Config.Retry, while all other orders go on
	}))
	check(rep.Migrate(ctx))

	handler := rep.Handler()
	check(handler(delivered(envelope.Save, 0, `{"id":7,"status":"draft"}`)))
	check(handler(delivered(envelope.Save, 1, `{"id":7,"status":"paid"}`)))
	check(handler(delivered(envelope.Save, 1, `{"id":7,"status":"paid"}`)))
	// Output:
	// POST /hooks 7 revision 1 paid
}

func ExampleReplica_WaitFor() {
	ctx := context.Background()
	db, cleanUp := openDatabase()
	defer cleanUp()
	_, err := db.NewCreateTable().Model((*OrderRef)(nil)).Exec(ctx)
	check(err)
	rep, err := replica.New(db, replica.Config{Queue: "webhooks"})
	check(err)
	check(replica.Register[OrderRef](rep, "order"))
	check(rep.Migrate(ctx))

	check(rep.Handler()(delivered(envelope.Save, 3, `{"id":7,"status":"paid"}`)))
	check(rep.WaitFor(ctx, "order", "7", 3)) // returns when the copy has what the caller wrote
	fmt.Println("order 7 is at revision 3 or beyond")
	// Output:
	// order 7 is at revision 3 or beyond
}

// delivered is a message about order 7 as a broker delivers it.
func delivered(signal envelope.Signal, revision int64, data string) *message.Message {
	m := envelope.Message{Signal: signal, Model: "order", PK: []byte("7"), Revision: revision}
	m.Data = envelope.Stamp([]byte(data), revision, m.Updated)
	body, err := m.Encode()
	check(err)
	delivery := message.NewMessage("", body)
	delivery.Metadata = m.Metadata()
	return delivery
}

func openDatabase() (db *bun.DB, cleanUp func()) {
	dir, err := os.MkdirTemp("", "replica")
	check(err)
	db, err = database.Open("sqlite://" + filepath.Join(dir, "replica.db"))
	check(err)
	return db, func() {
		check(db.Close())
		check(os.RemoveAll(dir))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
