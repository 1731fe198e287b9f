package replica_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// Left, Middle and Right point to each other in a circle.
type (
	Left struct {
		bun.BaseModel `bun:"table:lefts"`

		ID       int64 `bun:",pk"`
		MiddleID *int64
		ParentID *int64
	}
	Middle struct {
		bun.BaseModel `bun:"table:middles"`

		ID      int64 `bun:",pk"`
		RightID *int64
	}
	Right struct {
		bun.BaseModel `bun:"table:rights"`

		ID     int64 `bun:",pk"`
		LeftID *int64
	}
)

// circle makes tables that point to each other; null says whether the columns can be NULL, check how
// the constraints are.
func circle(t *testing.T, db *bun.DB, null, check string) *fixture {
	t.Helper()
	key := "id bigint PRIMARY KEY, "
	tables := []string{
		"CREATE TABLE lefts (" + key + "middle_id bigint " + null + ", parent_id bigint REFERENCES lefts (id) " + check,
		"CREATE TABLE middles (" + key + "right_id bigint " + null,
		"CREATE TABLE rights (" + key + "left_id bigint " + null,
	}
	pointing := []string{
		"FOREIGN KEY (middle_id) REFERENCES middles (id) " + check, "FOREIGN KEY (right_id) REFERENCES rights (id) " + check,
		"FOREIGN KEY (left_id) REFERENCES lefts (id) " + check,
	}
	var statements []string
	for i, table := range tables {
		if db.Dialect().Name() == dialect.SQLite {
			statements = append(statements, table+", "+pointing[i]+")")
			continue
		}
		statements = append(statements, table+")")
	}
	if db.Dialect().Name() != dialect.SQLite {
		for i, name := range []string{"lefts", "middles", "rights"} {
			statements = append(statements, "ALTER TABLE "+name+" ADD "+pointing[i])
		}
	}
	for _, statement := range statements {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	f := newFixture(t, db)
	require.NoError(t, replica.Register[Left](f.Replica, "left"))
	require.NoError(t, replica.Register[Middle](f.Replica, "middle"))
	require.NoError(t, replica.Register[Right](f.Replica, "right"))
	return f
}

func circular() []*envelope.Message {
	return []*envelope.Message{
		of("left", envelope.Save, "1", 0, `"middle_id":1,"parent_id":1`),
		of("middle", envelope.Save, "1", 0, `"right_id":1`),
		of("right", envelope.Save, "1", 0, `"left_id":1`),
	}
}

func (f *fixture) requireCircle() {
	f.t.Helper()
	for _, query := range []string{
		"SELECT count(*) FROM lefts WHERE middle_id = 1 AND parent_id = 1", "SELECT count(*) FROM middles WHERE right_id = 1",
		"SELECT count(*) FROM rights WHERE left_id = 1",
	} {
		var n int
		require.NoError(f.t, f.db.NewRaw(query).Scan(f.t.Context(), &n))
		require.Equal(f.t, 1, n, "%s; waiting: %v, dead letters: %v", query, f.waiting(), f.deadLetters())
	}
	require.Empty(f.t, f.waiting())
	require.Empty(f.t, f.deadLetters())
	require.EqualValues(f.t, 3, f.Stats().Applied)
}

func TestRowsThatPointToEachOtherAreWrittenTogether(t *testing.T) {
	kinds := map[string][2]string{
		"deferrable":          {"NOT NULL", "DEFERRABLE INITIALLY DEFERRED"},
		"deferrable, not yet": {"NOT NULL", "DEFERRABLE INITIALLY IMMEDIATE"},
		"nullable":            {"", ""},
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				if kind[1] != "" {
					dbtest.NotOnMariaDB(t, db, "it has no deferrable constraints")
				}
				f := circle(t, db, kind[0], kind[1])
				f.deliver(circular()...)
				f.requireCircle()
			})
		})
	}
}

func TestRowsThatPointToEachOtherAndComeTogether(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := circle(t, db, "", "")
		f.together(circular()...)
		f.requireCircle()
	})
}

func TestACircleThatCannotBeWrittenSaysWhatHelps(t *testing.T) {
	db := dbtest.Open(t, dbtest.PostgresURL(t))
	f := circle(t, db, "NOT NULL", "")
	f.deliver(circular()...)
	rows := f.waiting()
	require.Len(t, rows, 3, "%v", f.deadLetters())
	require.Contains(t, rows[2].Error, "make the constraint DEFERRABLE")
	require.Empty(t, notesIn(t, db, "lefts"))
}

func TestAnOrphanOfACircleGoesOnWaiting(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := circle(t, db, "", "")
		f.deliver(
			of("left", envelope.Save, "1", 0, `"middle_id":1,"parent_id":9`), // 9 is not there
			of("middle", envelope.Save, "1", 0, `"right_id":1`), of("right", envelope.Save, "1", 0, `"left_id":1`))
		require.Len(t, f.waiting(), 3, "%v", f.deadLetters())
		f.deliver(of("left", envelope.Save, "9", 0, `"middle_id":null,"parent_id":null`))
		f.maintain(func() bool { return f.Stats().Applied == 4 })
		require.Empty(t, f.waiting())
	})
}

func notesIn(t *testing.T, db *bun.DB, table string) (ids []int64) {
	t.Helper()
	require.NoError(t, db.NewRaw("SELECT id FROM ?", bun.Ident(table)).Scan(t.Context(), &ids))
	return ids
}

// Seat has a value that no other may have.
type Seat struct {
	bun.BaseModel `bun:"table:seats"`

	ID    int64 `bun:",pk"`
	Place *string
}

func TestRowsThatSwapAUniqueValueAreWrittenTogether(t *testing.T) {
	for _, kind := range []string{"", "NOT NULL DEFERRABLE"} {
		t.Run("unique "+kind, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				unique, deferrable := strings.CutPrefix(kind, "NOT NULL")
				if deferrable && db.Dialect().Name() != dialect.PG {
					t.Skip("only PostgreSQL has deferrable unique constraints")
				}
				null := ""
				if deferrable {
					null = "NOT NULL"
				}
				_, err := db.ExecContext(t.Context(), "CREATE TABLE seats (id bigint PRIMARY KEY, place varchar(20) "+null+
					", UNIQUE (place) "+unique+")")
				require.NoError(t, err)
				f := newFixture(t, db)
				require.NoError(t, replica.Register[Seat](f.Replica, "seat"))
				seat := func(id string, revision int64, place string) *envelope.Message {
					return of("seat", envelope.Save, id, revision, `"place":"`+place+`"`)
				}
				f.deliver(seat("1", 0, "a"), seat("2", 0, "b"), seat("3", 0, "c"), seat("4", 0, "d"))
				f.deliver(seat("1", 1, "b"), seat("2", 1, "c"), seat("3", 1, "a"))
				f.requireSeats("1b 2c 3a 4d")
				f.together(seat("1", 2, "d"), seat("4", 1, "b"))
				f.requireSeats("1d 2c 3a 4b")
				f.deliver(seat("1", 3, "a")) // whose holder stays
				require.Len(t, f.waiting(), 1)
				f.requireSeats("1d 2c 3a 4b")
			})
		})
	}
}

func (f *fixture) requireSeats(want string) {
	f.t.Helper()
	var rows []Seat
	require.NoError(f.t, f.db.NewSelect().Model(&rows).Order("id").Scan(f.t.Context()))
	var seats []string
	for _, s := range rows {
		seats = append(seats, string(rune('0'+s.ID))+*s.Place)
	}
	require.Equal(f.t, want, strings.Join(seats, " "), "waiting: %v, dead letters: %v", f.waiting(), f.deadLetters())
}
