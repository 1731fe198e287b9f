package outbox_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/column"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

type Holiday struct {
	Day  time.Time `bun:",pk,type:date"`
	Name string
}

type Rate struct {
	Percent float64   `bun:",pk,type:decimal(6,2)"`
	Day     time.Time `bun:",pk,type:date"`
	Fee     string    `bun:",pk,type:decimal(6,2)"`
	Name    string
}

type Event struct {
	Day string `bun:",pk,type:date"`
}

type Volume struct {
	ID    column.HexUUID `bun:",pk,type:char(32)"`
	Title string
}

type Shelf struct {
	ID   column.BinaryUUID `bun:",pk,type:binary(16)"`
	Name string
}

// A uuid in a column of another type is known by its text; what its column spells otherwise would
// not be found again, and is refused.
func TestTriggersKnowKeysThatAreUUIDsInOtherColumns(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		tables := []any{(*Volume)(nil)}
		require.NoError(t, outbox.Register[Volume](box, "volume", outbox.Triggers()))
		if db.Dialect().Name() == dialect.MySQL {
			tables = append(tables, (*Shelf)(nil))
			require.NoError(t, outbox.Register[Shelf](box, "shelf", outbox.Triggers()))
		}
		for _, table := range tables {
			require.NoError(t, exec(db.NewCreateTable().Model(table).Exec(t.Context())))
		}
		require.NoError(t, box.Migrate(t.Context()))
		f := fixture{T: t, db: db, box: box}
		const text, digits = "5f0c6f5e-0000-4000-8000-0123456789ab", "5f0c6f5e0000400080000123456789ab"
		write := func(statement string) error { return exec(db.NewRaw(statement).Exec(t.Context())) }
		require.NoError(t, write("INSERT INTO volumes (id, title) VALUES ('"+digits+"', 'a')"))
		want := []string{"volume " + text + " 0 SAVE"}
		if len(tables) > 1 {
			require.NoError(t, write("INSERT INTO shelves (id, name) VALUES (x'"+digits+"', 'a')"))
			want = append(want, "shelf "+text+" 0 SAVE")
		}
		_, err = box.Sweep(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, want, summary(f.take()))
		err = write("INSERT INTO volumes (id, title) VALUES ('" + strings.ToUpper(digits[:31]+"c") + "', 'a')")
		require.Error(t, err)
		require.Contains(t, err.Error(), "uuid in lower case")
	})
}

// A key of dates and decimals is the same whoever wrote the row: bun, raw SQL in a session, or
// another program.
func TestTriggersKnowKeysThatAreDatesAndDecimals(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		for _, table := range []any{(*Holiday)(nil), (*Rate)(nil)} {
			_, err := db.NewCreateTable().Model(table).Exec(t.Context())
			require.NoError(t, err)
		}
		require.NoError(t, outbox.Register[Holiday](box, "holiday", outbox.Triggers()))
		require.NoError(t, outbox.Register[Rate](box, "rate", outbox.Triggers()))
		err = box.Migrate(t.Context())
		if db.Dialect().Name() == dialect.SQLite { // which keeps whatever text a writer made of them
			require.ErrorContains(t, err, "none on SQLite")
			return
		}
		require.NoError(t, err)
		f := fixture{T: t, db: db, box: box}
		day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewInsert().Model(&Holiday{Day: day, Name: "a"}).Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewInsert().Model(&Rate{Percent: 1.5, Day: day, Fee: "2.50", Name: "a"}).Exec(ctx))
		}))
		want := summary(f.take())
		require.Len(t, want, 2)
		require.Equal(t, "holiday 2026-03-01 0 SAVE", want[0])
		require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewRaw("UPDATE holidays SET name = 'b'").Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewRaw("UPDATE rates SET name = 'b'").Exec(ctx))
		}))
		raw := summary(f.take())
		for _, statement := range []string{"UPDATE holidays SET name = 'c'", "UPDATE rates SET name = 'c'"} {
			_, err := db.DB.ExecContext(t.Context(), statement)
			require.NoError(t, err)
		}
		_, err = box.Sweep(t.Context())
		require.NoError(t, err)
		swept := summary(f.take())
		for i, line := range want {
			first := len(line) - len("0 SAVE")
			require.Equal(t, line[:first]+"1 SAVE", raw[i])
			require.Equal(t, line[:first]+"2 SAVE", swept[i])
		}
		require.NoError(t, exec(db.NewCreateTable().Model((*Event)(nil)).Exec(t.Context())))
		require.NoError(t, outbox.Register[Event](box, "event", outbox.Triggers()))
		require.ErrorContains(t, box.Migrate(t.Context()), "key column day is a date, and a string in Go")
	})
}
