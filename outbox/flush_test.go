package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

func dbtestPostgres(t *testing.T) *bun.DB { return dbtest.Open(t, dbtest.PostgresURL(t)) }

func TestOneMessagePerEntityWithTheStateAtCommit(t *testing.T) {
	each(t, func(f fixture) {
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			order := &Order{Number: "a", Status: "new"}
			require.NoError(f, exec(tx.NewInsert().Model(order).Exec(ctx)))
			require.NoError(f, exec(tx.NewInsert().Model(&[]Line{
				{OrderID: order.ID, SKU: "x", Quantity: 1}, {OrderID: order.ID, SKU: "y", Quantity: 2},
			}).Exec(ctx)))
			order.Status = "paid"
			require.NoError(f, exec(tx.NewUpdate().Model(order).WherePK().Exec(ctx)))
			order.ID = 77 // callers reuse their structs
			return nil
		}))
		messages := f.take()
		require.Equal(f, []string{"order 1 0 SAVE"}, summary(messages))
		require.JSONEq(f, `1`, string(messages[0].PK))
		require.Nil(f, messages[0].After)
		require.JSONEq(f, `{"id":1,"number":"a","status":"paid","lines":[
			{"id":1,"order_id":1,"sku":"x","quantity":1},{"id":2,"order_id":1,"sku":"y","quantity":2}]}`,
			string(messages[0].Data))
	})
}

func TestRevisionsContinueAcrossDeleteAndCreate(t *testing.T) {
	each(t, func(f fixture) {
		seat := &Seat{Row: 1, Place: "A", Guest: "Ann"}
		f.insert(seat)
		del := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(seat).WherePK().Exec(ctx))
		}
		require.NoError(f, f.inTx(del))
		f.insert(seat)
		messages := f.take()
		require.Equal(f, []string{`seat [1,"A"] 0 SAVE`, `seat [1,"A"] 1 DELETE`, `seat [1,"A"] 2 SAVE`}, summary(messages))
		require.JSONEq(f, `{"id":[1,"A"]}`, string(messages[1].Data))
		require.EqualValues(f, 0, *messages[1].After)
		require.EqualValues(f, 1, *messages[2].After)
	})
}

func TestCreatedAndDeletedInOneTransactionIsNothing(t *testing.T) {
	each(t, func(f fixture) {
		seat := &Seat{Row: 1, Place: "A"}
		createAndDelete := func(ctx context.Context, tx bun.Tx) error {
			require.NoError(f, exec(tx.NewInsert().Model(seat).Exec(ctx)))
			return exec(tx.NewDelete().Model(seat).WherePK().Exec(ctx))
		}
		require.NoError(f, f.inTx(createAndDelete))
		require.Empty(f, f.take())
		f.insert(seat)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(seat).WherePK().Exec(ctx))
		}))
		require.NoError(f, f.inTx(createAndDelete), "on a key that was deleted before")
		f.insert(seat)
		require.Equal(f, []string{`seat [1,"A"] 0 SAVE`, `seat [1,"A"] 1 DELETE`, `seat [1,"A"] 2 SAVE`}, summary(f.take()))
	})
}

// A row that was there before cqrsync counts as revision 0 on its replicas: what happens to it
// first must be a newer revision, or a replica that missed it would look equal.
func TestFirstChangeOfARowThatPredatesTheLedgerIsRevisionOne(t *testing.T) {
	each(t, func(f fixture) {
		old := []Note{{Slug: "deleted"}, {Slug: "updated"}, {Slug: "touched"}, {Slug: "expression"}, {Slug: "same"}}
		require.NoError(f, exec(f.db.NewInsert().Model(&old).Exec(outbox.Explicit(f.Context()))))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return errors.Join(
				exec(tx.NewDelete().Model(&old[0]).WherePK().Exec(ctx)),
				exec(tx.NewUpdate().Model(&old[1]).WherePK().Exec(ctx)),
				outbox.Touch[Note](ctx, tx, "touched"),
				exec(tx.NewUpdate().Model(&old[3]).Set("text = 'x'").WherePK().Exec(ctx)),
				exec(tx.NewDelete().Model(&old[4]).WherePK().Exec(ctx)),
				exec(tx.NewInsert().Model(&old[4]).Exec(ctx)),
				exec(tx.NewInsert().Model(&Note{Slug: "new"}).Exec(ctx)),
			)
		}))
		require.ElementsMatch(f, []string{
			"note deleted 1 DELETE", "note updated 1 SAVE", "note touched 1 SAVE", "note expression 1 SAVE", "note same 1 SAVE",
			"note new 0 SAVE",
		}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Note{Slug: "updated", Text: "x"}).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"note updated 2 SAVE"}, summary(f.take()))
	})
}

func TestNothingIsAppendedWithoutCommit(t *testing.T) {
	each(t, func(f fixture) {
		insert := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{Number: "a"}).Exec(ctx))
		}
		errNo := errors.New("no")
		require.ErrorIs(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return errors.Join(insert(ctx, tx), errNo)
		}), errNo)
		require.Panics(f, func() {
			_ = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				require.NoError(f, insert(ctx, tx))
				panic("no")
			})
		})
		cancelled, cancel := context.WithCancel(f.Context())
		require.ErrorIs(f, f.box.RunInTx(cancelled, nil, func(ctx context.Context, tx bun.Tx) error {
			require.NoError(f, insert(ctx, tx))
			cancel()
			return nil
		}), context.Canceled)
		require.Empty(f, f.take())
		n, err := f.db.NewSelect().Model((*Order)(nil)).Count(f.Context())
		require.NoError(f, err)
		require.Zero(f, n)
		select {
		case <-f.box.Wake():
			require.Fail(f, "the relay was woken for nothing")
		default:
		}
	})
}

func TestSavepoints(t *testing.T) {
	each(t, func(f fixture) {
		errNo := errors.New("no")
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			require.NoError(f, exec(tx.NewInsert().Model(&Note{Slug: "kept"}).Exec(ctx)))
			require.NoError(f, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Note{Slug: "inner"}).Exec(ctx))
			}))
			require.ErrorIs(f, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				require.NoError(f, exec(tx.NewInsert().Model(&Note{Slug: "undone"}).Exec(ctx)))
				return errNo
			}), errNo)
			return f.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Note{Slug: "nested box"}).Exec(ctx))
			})
		}))
		require.Equal(f, []string{"note inner 0 SAVE", "note kept 0 SAVE", "note nested box 0 SAVE"}, summary(f.take()))
		select {
		case <-f.box.Wake():
		default:
			require.Fail(f, "the relay was not woken")
		}
	})
}

// Two transactions change two rows of one order. Whoever locks second must send both changes.
func TestConcurrentChangesOfOneAggregate(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	order := &Order{Number: "a"}
	f.insert(order)
	const writers, rounds = 8, 20
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			for r := range rounds {
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					line := &Line{OrderID: order.ID, SKU: fmt.Sprintf("%d-%d", w, r), Quantity: 1}
					if _, err := tx.NewInsert().Model(line).Exec(ctx); err != nil {
						return err
					}
					return f.box.Saved(ctx, tx, order)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	messages := f.take()
	require.Len(t, messages, 1+writers*rounds)
	for i, m := range messages {
		require.EqualValues(t, i, m.Revision, "identity order is revision order")
		var data struct{ Lines []struct{ ID int64 } }
		require.NoError(t, json.Unmarshal(m.Data, &data))
		require.Len(t, data.Lines, i, "each revision carries every line committed before it")
	}
}

// Transactions over the same keys in different orders must not deadlock on the ledger.
func TestLedgerLocksAreTakenInOneOrder(t *testing.T) {
	each(t, func(f fixture) { lockInManyOrders(f) })
}

func lockInManyOrders(f fixture) {
	const writers, rounds, keys = 32, 8, 10
	notes := make([]Note, keys)
	for i := range notes {
		notes[i] = Note{Slug: fmt.Sprint("n", i)}
	}
	f.insert(&notes)
	var group errgroup.Group
	for w := range writers {
		random := rand.New(rand.NewPCG(1, uint64(w)))
		group.Go(func() error {
			for range rounds {
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					for _, i := range random.Perm(keys) {
						if err := f.box.Saved(ctx, tx, &Note{Slug: fmt.Sprint("n", i)}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(f, group.Wait(), "a deadlock")
	require.Equal(f, keys+writers*rounds*keys, len(f.take()))
}

func TestRegistrationErrorsAreReportedAtOnce(t *testing.T) {
	type keyless struct{ Name string }
	each(t, func(f fixture) {
		require.ErrorContains(f, outbox.Register[Order](f.box, "order"), "taken by")
		require.ErrorContains(f, outbox.Register[Order](f.box, "order2"), "registered already")
		require.ErrorContains(f, outbox.Register[*Log](f.box, "log"), "not a struct")
		err := outbox.Register[keyless](f.box, "bad.id", outbox.Relations("Nope"))
		require.ErrorContains(f, err, "bad.id")
		require.ErrorContains(f, err, "no primary key")
		require.ErrorContains(f, err, `relation "Nope"`)
		err = f.inTx(func(context.Context, bun.Tx) error { return nil })
		for _, part := range []string{"taken by", "registered already", "not a struct", "no primary key"} {
			require.ErrorContains(f, err, part)
		}
	})
}

func TestCheckSaysWhatIsMissingAllAtOnce(t *testing.T) {
	type Ghost struct {
		ID int64 `bun:",pk"`
	}
	type Order struct {
		bun.BaseModel `bun:"table:notes"`
		Slug          string `bun:",pk"`
		Colour        string
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		require.NoError(t, exec(db.NewCreateTable().Model((*Note)(nil)).Exec(t.Context())))
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Ghost](box, "ghost"))
		require.NoError(t, outbox.Register[Order](box, "note"))
		require.Error(t, outbox.Register[Log](box, "bad id"))
		err = box.Check(t.Context())
		require.ErrorIs(t, err, outbox.ErrNotMigrated)
		for _, part := range []string{"relay migrate", "model ghost: the table ghosts", "model note: the table notes", "colour", `"bad id"`} {
			require.ErrorContains(t, err, part)
		}
		nothing := func(context.Context, bun.Tx) error { return nil }
		require.ErrorIs(t, box.RunInTx(t.Context(), nil, nothing), outbox.ErrNotMigrated)
	})
	each(t, func(f fixture) { require.NoError(f, f.box.Check(f.Context())) })
}

func TestConfigErrors(t *testing.T) {
	_, err := outbox.New(nil, outbox.Config{})
	require.ErrorContains(t, err, "db is nil")
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	_, err = outbox.New(db, outbox.Config{Schema: "a b", TablePrefix: `x"`})
	require.ErrorContains(t, err, `schema "a b"`)
	require.ErrorContains(t, err, `table prefix "x\""`)
}
