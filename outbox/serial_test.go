package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Tally is an entity of two tables: its own count and one row for every change made to the parts.
type Tally struct {
	bun.BaseModel `bun:"table:tallies"`
	outbox.Tracked

	ID    int64 `bun:",pk"`
	Count int64
	Parts []*Part `bun:"rel:has-many,join:id=tally_id"`
}

type Part struct {
	bun.BaseModel `bun:"table:parts"`

	ID      int64 `bun:",pk,autoincrement"`
	TallyID int64
}

// Each transaction that touches a tally adds one to its count or one to its parts. In any serial
// order the n-th change therefore leaves count + parts = n, and since a change is a revision, every
// message must carry count + parts equal to its revision; in the order in which messages leave,
// revisions must grow by one.
func TestPublishedOrderAndContentAreThoseOfTheCommits(t *testing.T) {
	for _, on := range []struct {
		name      string
		newURL    func(testing.TB) string
		isolation sql.IsolationLevel
	}{
		{"postgres read committed", dbtest.PostgresURL, sql.LevelReadCommitted},
		{"postgres repeatable read", dbtest.PostgresURL, sql.LevelRepeatableRead},
		{"postgres serializable", dbtest.PostgresURL, sql.LevelSerializable},
		{"mariadb read committed", dbtest.MariaDBURL, sql.LevelReadCommitted},
		{"mariadb repeatable read", dbtest.MariaDBURL, sql.LevelRepeatableRead},
	} {
		t.Run(on.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.Open(t, on.newURL(t)))
			for _, table := range []any{(*Tally)(nil), (*Part)(nil)} {
				require.NoError(t, exec(f.db.NewCreateTable().Model(table).Exec(t.Context())))
			}
			require.NoError(t, outbox.Register[Tally](f.box, "tally", outbox.Relations("Parts")))
			const tallies, writers, rounds = 4, 4, 20
			for id := range int64(tallies) {
				f.insert(&Tally{ID: id})
			}
			var group errgroup.Group
			for w := range writers {
				random := rand.New(rand.NewPCG(1, uint64(w)))
				group.Go(func() error {
					for range rounds {
						ids, parts, undo := random.Perm(tallies)[:1+random.IntN(tallies)], random.IntN(2) == 0, random.IntN(5) == 0
						if random.IntN(10) > 0 {
							slices.Sort(ids) // PostgreSQL takes a second to notice a deadlock
						}
						var err error = errCollided
						for collided(err) { // on a slow machine ten attempts may not be enough
							err = f.box.RetryInTx(t.Context(), &sql.TxOptions{Isolation: on.isolation}, func(ctx context.Context, tx bun.Tx) error {
								return change(ctx, tx, ids, parts, undo)
							})
						}
						if err != nil && !errors.Is(err, errUndo) {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())

			next := map[string]int64{}
			for _, m := range f.take() {
				require.Equal(t, next[m.Key], m.Revision, "key %s", m.Key)
				next[m.Key]++
				var data struct {
					Count int64
					Parts []any
				}
				require.NoError(t, json.Unmarshal(m.Data, &data))
				require.Equal(t, m.Revision, data.Count+int64(len(data.Parts)), "key %s revision %d", m.Key, m.Revision)
			}
			for id := range int64(tallies) {
				require.Positive(t, next[string(rune('0'+id))])
			}
		})
	}
}

var (
	errUndo     = errors.New("rolled back on purpose")
	errCollided = collision("40001")
)

type collision string

func (c collision) Error() string    { return string(c) }
func (c collision) SQLState() string { return string(c) }

// collided recognises what RunInTx must pass on unchanged for callers to recognise.
func collided(err error) bool {
	if err != nil && strings.Contains(err.Error(), "Error 1213 (40001)") { // MariaDB's deadlock
		return true
	}
	var state interface{ SQLState() string }
	return errors.As(err, &state) && (state.SQLState() == "40001" || state.SQLState() == "40P01")
}

func change(ctx context.Context, tx bun.Tx, ids []int, parts, undo bool) error {
	for _, id := range ids {
		var err error
		if parts {
			_, err = tx.NewInsert().Model(&Part{TallyID: int64(id)}).Exec(ctx)
			err = errors.Join(err, outbox.Touch[Tally](ctx, tx, id))
		} else {
			_, err = tx.NewUpdate().Model(&Tally{ID: int64(id)}).Set("count = count + 1").WherePK().Exec(ctx)
		}
		if err != nil {
			return err
		}
	}
	if undo {
		return errUndo
	}
	return nil
}

func TestRetryInTxGivesUpOnOtherErrors(t *testing.T) {
	each(t, func(f fixture) {
		runs := 0
		err := f.box.RetryInTx(f.Context(), nil, func(context.Context, bun.Tx) error { runs++; return errUndo })
		require.ErrorIs(f, err, errUndo)
		require.Equal(f, 1, runs)
	})
}
