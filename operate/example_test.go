package operate_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

type Product struct {
	bun.BaseModel `bun:"table:products"`
	outbox.Tracked

	ID   int64 `bun:",pk"`
	Name string
}

type ProductCopy struct {
	bun.BaseModel `bun:"table:product_copies"`

	ID   int64 `bun:",pk"`
	Name string
}

// Whoever reaches both databases fills a replica and compares it in one process.
func ExampleDiff() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "operate")
	must(err)
	defer func() { must(os.RemoveAll(dir)) }()
	db, err := database.Open("sqlite://" + filepath.Join(dir, "shop.db"))
	must(err)
	defer func() { must(db.Close()) }()
	for _, model := range []any{(*Product)(nil), (*ProductCopy)(nil)} {
		_, err := db.NewCreateTable().Model(model).Exec(ctx)
		must(err)
	}
	box, err := outbox.New(db, outbox.Config{})
	must(err)
	must(outbox.Register[Product](box, "product"))
	must(box.Migrate(ctx))
	rep, err := replica.New(db, replica.Config{Queue: "copies"})
	must(err)
	must(replica.Register[ProductCopy](rep, "product"))
	must(rep.Migrate(ctx))
	must(box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&[]Product{{ID: 1, Name: "pen"}, {ID: 2, Name: "ink"}}).Exec(ctx)
		return err
	}))

	dump, w := io.Pipe()
	go func() {
		_, err := operate.Dump(ctx, box, "product", w, operate.DumpOptions{})
		must(w.CloseWithError(err))
	}()
	_, err = operate.Load(ctx, rep, dump, operate.LoadOptions{})
	must(err)
	_, err = db.NewUpdate().Model((*ProductCopy)(nil)).Set("name = 'pencil'").Where("id = 1").Exec(ctx)
	must(err)
	found, err := operate.Diff(ctx, box, rep, "product", io.Discard, operate.DiffOptions{Content: true})
	must(err)
	fmt.Println(found.Differing, "differs,", found.Sent, "is in the outbox again")
	// Output:
	// 1 differs, 1 is in the outbox again
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
