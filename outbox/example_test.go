package outbox_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/outbox"
)

type Product struct {
	bun.BaseModel `bun:"table:products"`
	outbox.Tracked

	ID      int64 `bun:",pk,autoincrement"`
	Name    string
	Price   int64
	Secret  string
	Reviews []*Review `bun:"rel:has-many,join:id=product_id"`
}

type Review struct {
	bun.BaseModel `bun:"table:reviews"`

	ID        int64 `bun:",pk,autoincrement"`
	ProductID int64
	Stars     int
}

// Plain bun in RunInTx: each product that the transaction changed is one message, with its state at commit.
func ExampleBox_RunInTx() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product"))

	must(shop.box.RunInTx(shop.ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		lamp := &Product{Name: "lamp", Price: 2000}
		if _, err := tx.NewInsert().Model(lamp).Exec(ctx); err != nil {
			return err
		}
		lamp.Price = 1800
		_, err := tx.NewUpdate().Model(lamp).WherePK().Exec(ctx)
		return err
	}))
	must(shop.box.RunInTx(shop.ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model(&Product{ID: 1}).WherePK().Exec(ctx)
		return err
	}))
	shop.print()
	// Output:
	// product 1, revision 0: SAVE {"id":1,"name":"lamp","price":1800,"secret":""}
	// product 1, revision 1: DELETE {"id":1}
}

// What nobody could turn into messages is refused before it runs, and the transaction does not commit.
func ExampleRefusedError() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product"))

	err := shop.box.RunInTx(shop.ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model((*Product)(nil)).Set("price = 0").Where("price < 100").Exec(ctx)
		return err
	})
	fmt.Println(err)
	// Output:
	// outbox: UPDATE on tracked table products refused: its model is a nil pointer, so its rows are unknown; write rows by their primary key through bun (NewInsert().Model(&row), NewUpdate or NewDelete().Model(&row).WherePK()), or a WHERE with outbox.BulkUpdate or BulkDelete, or run it under outbox.Explicit(ctx) and name the rows with Saved or Deleted in the same transaction
}

// An UPDATE by WHERE finds, locks and captures its rows.
func ExampleBulkUpdate() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.Columns("price")))

	must(shop.box.RunInTx(shop.ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		products := []Product{{Name: "pen", Price: 50}, {Name: "ink", Price: 80}, {Name: "desk", Price: 9000}}
		if _, err := tx.NewInsert().Model(&products).Exec(ctx); err != nil {
			return err
		}
		n, err := outbox.BulkUpdate[Product](ctx, tx,
			func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("price < ?", 100) },
			func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("price = 100") })
		fmt.Println(n, "updated")
		return err
	}))
	shop.print()
	// Output:
	// 2 updated
	// product 1, revision 0: SAVE {"id":1,"price":100}
	// product 2, revision 0: SAVE {"id":2,"price":100}
	// product 3, revision 0: SAVE {"id":3,"price":9000}
}

// A row that belongs to an entity changed: the entity is sent again, with its relations.
func ExampleTouch() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.WithoutColumns("secret"), outbox.Relations("Reviews")))

	write := func(fn func(ctx context.Context, tx bun.Tx) error) { must(shop.box.RunInTx(shop.ctx, nil, fn)) }
	write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&Product{Name: "chair", Price: 7500, Secret: "margin"}).Exec(ctx)
		return err
	})
	write(func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&Review{ProductID: 1, Stars: 5}).Exec(ctx); err != nil {
			return err
		}
		return outbox.Touch[Product](ctx, tx, 1)
	})
	shop.print()
	// Output:
	// product 1, revision 0: SAVE {"id":1,"name":"chair","price":7500,"reviews":[]}
	// product 1, revision 1: SAVE {"id":1,"name":"chair","price":7500,"reviews":[{"id":1,"product_id":1,"stars":5}]}
}

// shop is a database with the tables of the examples.
type shop struct {
	ctx context.Context
	dir string
	db  *bun.DB
	box *outbox.Box
}

func newShop() shop {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "outbox")
	must(err)
	db, err := database.Open("sqlite://" + filepath.Join(dir, "shop.db"))
	must(err)
	for _, model := range []any{(*Product)(nil), (*Review)(nil)} {
		_, err := db.NewCreateTable().Model(model).Exec(ctx)
		must(err)
	}
	box, err := outbox.New(db, outbox.Config{})
	must(err)
	must(box.Migrate(ctx))
	return shop{ctx, dir, db, box}
}

func (s shop) close() {
	must(s.db.Close())
	must(os.RemoveAll(s.dir))
}

// print shows what the relay would publish.
func (s shop) print() {
	var messages []struct {
		Model, Key, Signal, Data string
		Revision                 int64
	}
	err := s.db.NewSelect().Table("outbox_messages").Column("model", "key", "signal", "data", "revision").Order("id").
		Scan(s.ctx, &messages)
	must(err)
	for _, m := range messages {
		fmt.Printf("%s %s, revision %d: %s %s\n", m.Model, m.Key, m.Revision, m.Signal, m.Data)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
