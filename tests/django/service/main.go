// Command service writes to the table of accounts that Django made, as a Go service does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/outbox"
)

// Account is a row of the table that Django made. Its columns cqrs_revision and cqrs_updated are
// not here: what replicas get under these names is the ledger's.
type Account struct {
	bun.BaseModel `bun:"table:shop_account"`
	outbox.Tracked

	ID      int64 `bun:",pk,autoincrement"`
	Name    string
	Email   *string
	Balance string `bun:"type:numeric(12,2)"`
	Active  bool
	Score   *float64
	Points  int64
	Born    *time.Time `bun:"type:date"`
	Seen    *time.Time
	Profile json.RawMessage `bun:"type:jsonb"`
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// run is open NAME BALANCE, rename ID NAME, or close ID.
func run(ctx context.Context, args []string) (err error) {
	db, err := database.Open(os.Getenv("SHOP"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, box.Close()) }()
	if err := outbox.Register[Account](box, "account"); err != nil {
		return err
	}
	if err := box.Check(ctx); err != nil { // what in the database would change rows unseen
		return err
	}
	if len(args) < 2 {
		return errors.New("want open NAME BALANCE, rename ID NAME, or close ID")
	}
	id, _ := strconv.ParseInt(args[1], 10, 64) // 0 is no account
	return box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		var err error
		switch args[0] {
		case "open":
			row := Account{Name: args[1], Balance: args[2], Active: true}
			_, err = tx.NewInsert().Model(&row).Exec(ctx)
		case "rename":
			row := Account{ID: id, Name: args[2]}
			_, err = tx.NewUpdate().Model(&row).Column("name").WherePK().Exec(ctx)
		case "close":
			_, err = tx.NewDelete().Model(&Account{ID: id}).WherePK().Exec(ctx)
		}
		return err
	})
}
