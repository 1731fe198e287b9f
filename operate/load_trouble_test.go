package operate_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/replica"
)

// newCopies is a replica of parcels whose tables of cqrsync's are made if migrated says so.
func newCopies(t *testing.T, db *bun.DB, migrated bool) *replica.Replica {
	rep, err := replica.New(db, replica.Config{Queue: "replica_a", Batch: 5000, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, replica.Register[Parcel](rep, "parcel"))
	if migrated {
		require.NoError(t, rep.Migrate(t.Context()))
		_, err = db.NewCreateTable().Model((*Parcel)(nil)).Exec(t.Context())
		require.NoError(t, err)
	}
	return rep
}

const oneParcel = "parcel\n" + `{"cqrs_revision":0,"cqrs_updated":null,"id":"p1","weight":1,"note":"x"}`

// operations are those that read or write a replica.
func operations(rep *replica.Replica) map[string]func(ctx context.Context) error {
	const first = "parcel,2026-11-24 12:00:00+00:00\n"
	return map[string]func(ctx context.Context) error{
		"load": func(ctx context.Context) error {
			_, err := operate.Load(ctx, rep, strings.NewReader(oneParcel), operate.LoadOptions{})
			return err
		},
		"deleted-sync-replica": func(ctx context.Context) error {
			_, err := operate.DeletedSyncReplica(ctx, rep, strings.NewReader(first+`["p1"]`), operate.Options{MaxDeletes: 9}, nil)
			return err
		},
		"diff-replica": func(ctx context.Context) error {
			_, err := operate.DiffReplica(ctx, rep, strings.NewReader(first+`[["p1",0]]`), &strings.Builder{}, operate.Options{})
			return err
		},
		"deleted-diff-replica": func(ctx context.Context) error {
			_, err := operate.DeletedDiffReplica(ctx, rep, "parcel", &strings.Builder{}, operate.Options{})
			return err
		},
	}
}

func TestAReplicaThatWasNotMigratedIsAnErrorThatSaysSo(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		rep := newCopies(t, db, false)
		for name, run := range operations(rep) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := run(ctx)
			require.ErrorContains(t, err, "run relay migrate --side replica", name)
			require.NoError(t, ctx.Err(), name)
		}
	})
}

func TestATableThatIsNotThereIsAnErrorAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		rep := newCopies(t, db, true)
		_, err := db.NewDropTable().Model((*Parcel)(nil)).Exec(t.Context())
		require.NoError(t, err)
		for name, run := range operations(rep) {
			require.ErrorContains(t, run(t.Context()), `table parcels of model "parcel"`, name)
		}
	})
}

func TestADatabaseThatTakesNoWritesIsAnErrorThatSaysSo(t *testing.T) {
	readOnly := map[string]string{
		"postgres": "default_transaction_read_only=on&target_session_attrs=any", "mariadb": "tx_read_only=1",
	}
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			newCopies(t, dbtest.Open(t, url), true)
			if option := readOnly[name]; option != "" && strings.Contains(url, "?") {
				url += "&" + option
			} else if option != "" {
				url += "?" + option
			}
			db, err := database.Open(url)
			require.NoError(t, err)
			if name == "sqlite" { // its one connection stays
				_, err = db.DB.ExecContext(t.Context(), "PRAGMA query_only = on")
				require.NoError(t, err)
			}
			defer func() { require.NoError(t, db.Close()) }()
			rep := newCopies(t, db, false)
			all := operations(rep)
			for _, operation := range []string{"load", "deleted-sync-replica"} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.ErrorContains(t, all[operation](ctx), "the database takes no writes", operation)
			}
			for _, operation := range []string{"diff-replica", "deleted-diff-replica"} {
				require.NoError(t, all[operation](t.Context()), "it only reads")
			}
		})
	}
}

// Locked is a row that notes how many locks its own transaction held.
type Locked struct {
	bun.BaseModel `bun:"table:locked"`

	ID int64 `bun:",pk"`
	N  int64
}

func TestManyBadLinesDoNotFillTheLockTable(t *testing.T) {
	newURL, found := dbtest.Kinds()["postgres"]
	if !found {
		dbtest.Missing(t, dbtest.Postgres, "its savepoints have entries in a table of locks")
	}
	for name, isBad := range map[string]func(i int) bool{
		"all but the last": func(i int) bool { return i < 3000 },
		"every other":      func(i int) bool { return i%2 == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.Open(t, newURL(t))
			for _, statement := range []string{
				"CREATE FUNCTION locks() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()'",
				"CREATE TABLE locked (id bigint PRIMARY KEY, n bigint CHECK (n < 0), locks bigint DEFAULT locks())",
			} {
				_, err := db.DB.ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			rep, err := replica.New(db, replica.Config{Queue: "q", Batch: 5000, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			require.NoError(t, replica.Register[Locked](rep, "locked"))
			require.NoError(t, rep.Migrate(t.Context()))
			dump := []string{"locked"}
			wanted := 0
			for i := range 3001 {
				n := -1
				if isBad(i) {
					n = 1
				} else {
					wanted++
				}
				dump = append(dump, fmt.Sprintf(`{"cqrs_revision":0,"cqrs_updated":null,"id":%d,"n":%d}`, i, n))
			}
			loaded, err := operate.Load(t.Context(), rep, strings.NewReader(strings.Join(dump, "\n")), operate.LoadOptions{})
			require.NoError(t, err)
			require.EqualValues(t, wanted, loaded.Applied)
			require.EqualValues(t, 3001-wanted, loaded.Bad)
			var most, rows int
			require.NoError(t, db.DB.QueryRowContext(t.Context(), "SELECT max(locks), count(*) FROM locked").Scan(&most, &rows))
			require.Equal(t, wanted, rows)
			require.Less(t, most, 700, "of the 6,400 that all connections share")
		})
	}
}
