package outbox_test

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

// A product leaves the shop window: its replicas delete it. The revision goes on.
func ExampleFilter() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.Columns("price"),
		outbox.Filter(func(p *Product) bool { return p.Price > 0 })))

	pen := &Product{Name: "pen", Price: 50}
	shop.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(pen).Exec(ctx)
		return err
	})
	pen.Price = 0
	shop.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(pen).WherePK().Exec(ctx)
		return err
	})
	shop.print()
	// Output:
	// product 1, revision 0: SAVE {"id":1,"price":50}
	// product 1, revision 1: DELETE {"id":1}
}

// The serializer gets all rows of the transaction, and loads what it adds with one query.
func ExampleSerializer() {
	shop := newShop()
	defer shop.close()
	type rated struct {
		ID    int64   `json:"id"`
		Title string  `json:"title"`
		Stars float64 `json:"stars"`
	}
	must(outbox.Register[Product](shop.box, "product", outbox.Serializer(
		func(ctx context.Context, tx bun.IDB, products []*Product) ([]any, error) {
			var stars []struct {
				ProductID int64
				Average   float64
			}
			err := tx.NewSelect().Model((*Review)(nil)).Column("product_id").ColumnExpr("avg(stars) AS average").
				Group("product_id").Scan(ctx, &stars)
			objects := make([]any, len(products))
			for i, p := range products {
				object := rated{ID: p.ID, Title: p.Name}
				for _, s := range stars {
					if s.ProductID == p.ID {
						object.Stars = s.Average
					}
				}
				objects[i] = object
			}
			return objects, err
		})))

	shop.write(func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&[]Review{{ProductID: 1, Stars: 4}, {ProductID: 1, Stars: 5}}).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(&[]Product{{Name: "lamp"}, {Name: "pen"}}).Exec(ctx)
		return err
	})
	shop.print()
	// Output:
	// product 1, revision 0: SAVE {"id":1,"title":"lamp","stars":4.5}
	// product 2, revision 0: SAVE {"id":2,"title":"pen","stars":0}
}

// Replicas learn what the price was, also where a bulk statement changed it.
func ExampleTrackPrevious() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.Columns("price"), outbox.TrackPrevious("price")))

	shop.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&Product{Name: "pen", Price: 50}).Exec(ctx)
		return err
	})
	shop.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := outbox.BulkUpdate[Product](ctx, tx,
			func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("name = 'pen'") },
			func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("price = price * 2") })
		return err
	})
	var previous []string
	must(shop.db.NewSelect().Table("outbox_messages").Column("previous").Order("id").
		Scan(shop.ctx, &previous))
	fmt.Println(previous)
	// Output:
	// [{"price":null} {"price":50}]
}

// Raw SQL runs under Explicit, and the rows that it changed are named.
func ExampleBox_Saved() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.Columns("price")))

	shop.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.ExecContext(outbox.Explicit(ctx),
			"INSERT INTO products (id, name, price, secret) VALUES (7, 'desk', 9000, '')")
		if err != nil {
			return err
		}
		return shop.box.Saved(ctx, tx, &Product{ID: 7})
	})
	shop.print()
	// Output:
	// product 7, revision 1: SAVE {"id":7,"price":9000}
}

// Code that writes through database/sql reports its rows in its own transaction.
func ExampleBox_Capture() {
	shop := newShop()
	defer shop.close()
	must(outbox.Register[Product](shop.box, "product", outbox.Columns("price")))

	tx, err := shop.db.DB.BeginTx(shop.ctx, nil)
	must(err)
	_, err = tx.ExecContext(shop.ctx, "INSERT INTO products (id, name, price, secret) VALUES (7, 'desk', 9000, '')")
	must(err)
	must(shop.box.Capture(shop.ctx, tx, &Product{ID: 7}))
	must(tx.Commit())
	shop.print()
	// Output:
	// product 7, revision 1: SAVE {"id":7,"price":9000}
}

func (s shop) write(fn func(ctx context.Context, tx bun.Tx) error) {
	must(s.box.RunInTx(s.ctx, nil, fn))
}
