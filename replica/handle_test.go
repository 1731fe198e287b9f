package replica_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// handle registers handler for model note, with a table of notes that it may write.
func handle(f *fixture, handler func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error) {
	f.t.Helper()
	_, err := f.db.NewCreateTable().Model((*Note)(nil)).Exec(f.t.Context())
	require.NoError(f.t, err)
	require.NoError(f.t, replica.Handle(f.Replica, "note", handler))
}

func insert(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
	_, err := tx.NewInsert().Model(&e.Data).Exec(ctx)
	return err
}

func TestHandlerSeesTheWholeEvent(t *testing.T) {
	type Product struct {
		ID   int64 `bun:",pk"`
		Name string
	}
	type Line struct {
		OrderID   int64     `bun:",pk"`
		ProductID int64     `bun:",pk"`
		Product   *Product  `bun:"rel:belongs-to,join:product_id=id"`
		AddedAt   time.Time // Python's form, as every column
	}
	type Order struct {
		bun.BaseModel `bun:"table:orders"`
		ID            int64  `bun:"id,pk"`
		Status        string `bun:"state"`
		Total         string
		CqrsRevision  int64
		Lines         []*Line  `bun:"rel:has-many,join:id=order_id"`
		Author        *Product `bun:"rel:belongs-to,join:id=id"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	var got replica.Event[Order]
	require.NoError(t, replica.Handle(f.Replica, "order",
		func(_ context.Context, _ bun.Tx, e replica.Event[Order]) error {
			got = e
			return nil
		}))
	m := of("order", envelope.Save, "7", 3, `"state":"paid","total":12.30,"author":4,"lines":[
		{"order_id":7,"product_id":1,"product":{"id":1,"name":"pen"},"added_at":"2026-01-02 03:04:05+00:00"},
		{"order_id":7,"product_id":2,"product":2,"added_at":"2026-01-02 03:04:05.5+01:00"}]`)
	m.Previous, m.Meta = []byte(`{"state":"new"}`), []byte(`{"by":"me"}`)
	m.CorrelationID, m.Headers = "req-1", map[string]string{"traceparent": "00-1"}
	f.deliver(m)

	require.Equal(t, Order{
		ID: 7, Status: "paid", Total: "12.30", CqrsRevision: 3,
		Lines: []*Line{
			{7, 1, &Product{1, "pen"}, utc(t, "2026-01-02T03:04:05Z")},
			{7, 2, nil, utc(t, "2026-01-02T02:04:05.5Z")},
		},
	}, got.Data)
	got.Data = Order{}
	require.JSONEq(t, string(m.Data), string(got.Raw))
	got.Raw = nil
	require.Equal(t, replica.Event[Order]{
		Signal: envelope.Save, Model: "order", Key: "7", Revision: 3, Updated: m.Updated,
		Previous: m.Previous, Meta: m.Meta, CorrelationID: "req-1", Headers: m.Headers,
	}, got)

	f.deliver(of("order", envelope.Delete, "7", 4, ""))
	require.Equal(t, envelope.Delete, got.Signal)
	require.Equal(t, Order{ID: 7}, got.Data, "the key, and nothing else")
}

func TestHandlerTakesAPlainStruct(t *testing.T) {
	type Line struct {
		ProductID int64
		Quantity  int       `json:"qty"`
		At        time.Time // Python's form
	}
	type Order struct {
		ID      string
		Lines   []Line
		ByState map[string]Line
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	var got []Order
	require.NoError(t, replica.Handle(f.Replica, "order",
		func(_ context.Context, _ bun.Tx, e replica.Event[Order]) error {
			got = append(got, e.Data)
			return nil
		}))
	f.deliver(
		of("order", envelope.Save, `"a"`, 0, `"lines":[{"product_id":1,"qty":2,"at":"2026-01-02 03:04:05+00:00"}],
			"by_state":{"new":{"product_id":3}}`),
		of("order", envelope.Delete, `"a"`, 1, ""))
	require.Equal(t, []Order{
		{"a", []Line{{1, 2, utc(t, "2026-01-02T03:04:05Z")}}, map[string]Line{"new": {ProductID: 3}}},
		{ID: "a"},
	}, got)
}

func TestHandlerSeesFloatsThatJSONHasNoNumberFor(t *testing.T) {
	type Reading struct {
		Value float64
		Low   *float32
		Count *int64
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	var got Reading
	require.NoError(t, replica.Handle(f.Replica, "reading",
		func(_ context.Context, _ bun.Tx, e replica.Event[Reading]) error {
			got = e.Data
			return nil
		}))
	m := of("reading", envelope.Save, "1", 0, `"value":null,"low":null,"count":null`)
	m.NonFinite = envelope.NonFinite{
		"value": json.RawMessage("Infinity"), "low": json.RawMessage("-Infinity"), "count": json.RawMessage("NaN"),
	}
	f.deliver(m)
	require.True(t, math.IsInf(got.Value, 1))
	require.True(t, math.IsInf(float64(*got.Low), -1))
	require.Nil(t, got.Count, "null, where the type is no float")

	f.deliver(of("reading", envelope.Delete, "1", 1, ""))
	require.Equal(t, Reading{}, got, "a type without a key")
}

func TestMessageThatDoesNotFitTheHandlersTypeIsADeadLetter(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	handle(f, insert)
	m := msg(envelope.Save, 1, 0, `"text":[]`)
	m.Key = "1"
	f.deliver(m)
	f.requireDeadLetter(m, `field "text": a list cannot be read as string`)
}

func TestFailingHandlerLeavesNoTraceAndWaits(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		broken, calls := errors.New("the mail server is down"), 0
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			if calls++; calls > 1 {
				return insert(ctx, tx, e)
			}
			return errors.Join(insert(ctx, tx, e), broken)
		})
		f.deliver(save(1, 0, "a"))
		require.Empty(t, f.notes())
		require.Equal(t, applied.NeverApplied, f.ledger(1).Revision)
		require.Equal(t, replica.Stats{Waiting: 1}, f.Stats())
		require.Empty(t, f.deadLetters())

		f.maintain(func() bool { return f.Stats().Applied == 1 })
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.Equal(t, 2, calls)
		require.Empty(t, f.waiting())
	})
}

func TestMessageIsADeadLetterAfterItsAttempts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, calls := newFixture(t, db), 0
		handle(f, func(context.Context, bun.Tx, replica.Event[Note]) error {
			calls++
			return errors.New("the mail server is down")
		})
		f.deliver(save(1, 0, "a"))
		f.maintain(func() bool { return f.Stats().DeadLettered == 1 })
		require.Equal(t, 3, calls)
		require.Equal(t, replica.Stats{Waiting: 2, DeadLettered: 1}, f.Stats())
		require.EqualValues(t, 1, f.DeadLetters()[replica.Exhausted])
		require.Contains(t, f.deadLetters()[0].Error, "the mail server is down")
		require.Empty(t, f.waiting())
		require.Equal(t, applied.NeverApplied, f.ledger(1).Revision)
	})
}

func TestPanicIsAnErrorWithItsStack(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	handle(f, func(context.Context, bun.Tx, replica.Event[Note]) error { panic("no such luck") })
	f.deliver(save(1, 0, "a"))
	require.Contains(t, f.waiting()[0].Error, "no such luck")
	require.Contains(t, f.waiting()[0].Error, "handle_test.go")
}

func TestPermanentErrorParksAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, calls := newFixture(t, db), 0
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			calls++
			return errors.Join(insert(ctx, tx, e), replica.Permanent(errors.New("no such customer")))
		})
		m := save(1, 0, "a")
		m.Key = "1"
		f.deliver(m)
		require.Equal(t, 1, calls)
		f.requireDeadLetter(m, "no such customer")
		require.Empty(t, f.notes())
		require.Equal(t, applied.NeverApplied, f.ledger(1).Revision, "a newer revision supersedes it")
	})
	require.NoError(t, replica.Permanent(nil))
}

// PostgreSQL has aborted the transaction; a COMMIT would be a ROLLBACK.
func TestHandlerThatSwallowsAnSQLErrorLosesNothing(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.PostgresURL(t)))
	handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
		_, _ = tx.ExecContext(ctx, "SELECT no_such_column")
		return nil
	})
	f.deliver(save(1, 0, "a"))
	require.Contains(t, f.waiting()[0].Error, "aborted")
	require.Equal(t, applied.NeverApplied, f.ledger(1).Revision)
}

func TestStoppingDoesNotCutTheTransaction(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		d := delivery(t, save(1, 0, "a"))
		ctx, stop := context.WithCancel(t.Context())
		d.SetContext(ctx)
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			stop()
			return errors.Join(ctx.Err(), insert(ctx, tx, e))
		})
		require.NoError(t, f.Handler()(d))
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
	})
}

func TestHandlerTimeoutEndsATry(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{HandlerTimeout: 50 * time.Millisecond})
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			switch e.Data.ID {
			case 1:
				<-ctx.Done()
				return ctx.Err()
			case 2: // a statement is cut off, and the connection with it
				<-ctx.Done()
				_, err := tx.ExecContext(ctx, "SELECT 1")
				return err
			}
			return insert(ctx, tx, e)
		})
		f.deliver(save(1, 0, "a"), save(2, 0, "b"), save(3, 0, "c"))
		require.Equal(t, replica.Stats{Applied: 1, Waiting: 2}, f.Stats())
		require.Equal(t, map[int64]string{3: "c"}, f.notes())
	})
}

func TestBatchHandlerTimeoutHoldsNobodyUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{HandlerTimeout: 50 * time.Millisecond})
		mirror[Account](f, "account")
		require.NoError(t, replica.HandleBatch(f.Replica, "note",
			func(ctx context.Context, tx bun.Tx, _ []replica.Event[Note]) error {
				<-ctx.Done()
				_, err := tx.ExecContext(ctx, "SELECT 1")
				return err
			}))
		f.together(save(1, 0, "a"), of("account", envelope.Save, "1", 0, `"name":"a"`))
		require.Equal(t, Account{1, "a"}, one[Account](t, db, "id = 1"))
		require.Equal(t, replica.Stats{Applied: 1, Waiting: 1}, f.Stats())
	})
}

func TestHandleBatchDiscardsOneEvent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		require.NoError(t, replica.HandleBatch(f.Replica, "note",
			func(_ context.Context, _ bun.Tx, events []replica.Event[Note]) error {
				for _, e := range events {
					if e.Data.Text == "dull" {
						return replica.Discard(errors.New("of no interest"))
					}
				}
				return nil
			}))
		results, err := f.Apply(t.Context(), onTheWire(t, []*envelope.Message{
			save(1, 0, "a"), save(2, 0, "dull"), save(3, 0, "c"),
		}))
		require.NoError(t, err)
		require.Equal(t, replica.Applied, results[0].Outcome)
		require.Equal(t, replica.Discarded, results[1].Outcome)
		require.Equal(t, replica.Applied, results[2].Outcome)
		require.EqualValues(t, 0, f.ledger(2).Revision, "the revision moves on")
		require.Empty(t, f.waiting())
	})
}
