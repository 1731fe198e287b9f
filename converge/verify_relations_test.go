package converge_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Basket has a key of two columns, and items.
type Basket struct {
	bun.BaseModel `bun:"table:baskets"`

	Tenant int64  `bun:",pk"`
	Number string `bun:",pk,type:varchar(40)"`
	Note   *string
	Items  []*Item `bun:"rel:has-many,join:tenant=tenant,join:number=basket"`
}

// Item is a part of a basket.
type Item struct {
	bun.BaseModel `bun:"table:items"`

	Tenant int64  `bun:",pk"`
	Basket string `bun:",pk,type:varchar(40)"`
	Line   int64  `bun:",pk"`
	SKU    string `bun:"sku"`
	Qty    *int64
}

// numbers are texts that databases, JSON and Go might write or order in several ways.
var numbers = []string{"a", "B", "ä", `"`, "a,b", "[1", "<", "1", "10", "01", "é", "_", "null", "\\"}

func baskets() (all []*Basket, items []*Item) {
	for i := range 60 {
		b := &Basket{Tenant: int64(i % 3), Number: fmt.Sprint(numbers[i%len(numbers)], i)}
		if i < len(numbers) {
			b.Number = numbers[i]
		}
		if i%2 == 0 {
			b.Note = new(fmt.Sprint("note ", i))
		}
		all = append(all, b)
		for line := range int64(i % 4) { // some have none
			item := &Item{Tenant: b.Tenant, Basket: b.Number, Line: line, SKU: fmt.Sprint("s", line)}
			if line > 0 {
				item.Qty = new(line)
			}
			items = append(items, item)
		}
	}
	return all, items
}

// withBaskets makes the tables, and fills the master's.
func withBaskets(s *system) *replica.Replica {
	for _, db := range []*bun.DB{s.master, s.copies} {
		for _, table := range []any{(*Basket)(nil), (*Item)(nil)} {
			_, err := db.NewCreateTable().Model(table).Exec(s.Context())
			require.NoError(s, err)
		}
	}
	require.NoError(s, outbox.Register[Basket](s.box, "basket", outbox.Relations("Items")))
	all, items := baskets()
	require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&items).Exec(outbox.Explicit(ctx))
		if err == nil {
			_, err = tx.NewInsert().Model(&all).Exec(ctx)
		}
		return err
	}))
	rep := s.replica("stats")
	require.NoError(s, replica.Register[Basket](rep, "basket", replica.Children("Items")))
	return rep
}

func (v *verified) basketsOf(db *bun.DB) (all []Basket) {
	v.Helper()
	byLine := func(q *bun.SelectQuery) *bun.SelectQuery { return q.Order("line") }
	err := db.NewSelect().Model(&all).Relation("Items", byLine).Order("tenant", "number").Scan(v.Context())
	require.NoError(v, err)
	return all
}

// Keys of several columns and what is nested are compared like any others.
func TestContentOfRelationsAndOfKeysOfSeveralColumnsHeals(t *testing.T) {
	each(t, func(s *system) {
		v := verifyWith(s, withBaskets(s), converge.ReporterConfig{Content: []string{"basket"}})
		v.equal("basket")
		require.Equal(s, int64(60), v.of("basket").Last.Keys)
		require.Empty(s, v.reporter.Reported().Asked)
		require.Equal(s, v.basketsOf(s.master), v.basketsOf(s.copies))

		for _, statement := range []string{
			"UPDATE items SET qty = 99 WHERE tenant = 2 AND line = 2",
			"UPDATE items SET qty = NULL WHERE tenant = 1 AND line = 1",
			"DELETE FROM items WHERE basket = '\"' AND line = 0",
			"INSERT INTO items (tenant, basket, line, sku) VALUES (0, 'a', 7, 'none')",
			"UPDATE baskets SET note = NULL WHERE number = '<'",
			"UPDATE baskets SET note = '' WHERE number = 'B'",
			"DELETE FROM baskets WHERE number = '[1'",
			"INSERT INTO baskets (tenant, number) VALUES (7, '\"odd\"')",
		} {
			result, err := s.copies.ExecContext(s.Context(), statement)
			require.NoError(s, err, statement)
			n, err := result.RowsAffected()
			require.NoError(s, err)
			require.Positive(s, n, statement)
		}
		v.equal("basket")
		require.Equal(s, v.basketsOf(s.master), v.basketsOf(s.copies))
		asked := v.reporter.Reported().Asked
		require.Positive(s, asked["missing"]) // the next pass may come before the repair
		require.Positive(s, asked["extra"])
		require.Greater(s, asked["content"], int64(6))
	})
}
