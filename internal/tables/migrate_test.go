package tables

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

var sides = []db.Side{db.Outbox, db.Replica}

func newMigrator(t *testing.T, bunDB *bun.DB) *Migrator {
	t.Helper()
	d, err := db.New(bunDB, db.Names{})
	require.NoError(t, err)
	return New(d)
}

func TestMigrateAppliesOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		for _, side := range sides {
			pending, err := s.Pending(t.Context(), side)
			require.NoError(t, err)
			require.NotEmpty(t, pending)

			applied, err := s.Migrate(t.Context(), side)
			require.NoError(t, err)
			require.Equal(t, pending, applied)

			pending, err = s.Pending(t.Context(), side)
			require.NoError(t, err)
			require.Empty(t, pending)

			applied, err = s.Migrate(t.Context(), side)
			require.NoError(t, err)
			require.Empty(t, applied)
		}
	})
}

func TestMigrateUsesSchemaAndPrefix(t *testing.T) {
	bunDB := dbtest.Open(t, dbtest.PostgresURL(t))
	_, err := bunDB.ExecContext(t.Context(), `CREATE SCHEMA "Other_Schema"`)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := bunDB.ExecContext(context.Background(), `DROP SCHEMA "Other_Schema" CASCADE`)
		require.NoError(t, err)
	})
	for _, names := range []db.Names{{Prefix: "Order_"}, {Schema: "Other_Schema"}, {Schema: "Other_Schema", Prefix: "x_"}} {
		d, err := db.New(bunDB, names)
		require.NoError(t, err)
		s := New(d)
		for _, side := range sides {
			applied, err := s.Migrate(t.Context(), side)
			require.NoError(t, err)
			require.NotEmpty(t, applied)
		}
		var exists bool
		require.NoError(t, bunDB.NewRaw("SELECT to_regclass(?) IS NOT NULL", names.Table(`"`, "outbox_messages")).Scan(t.Context(), &exists))
		require.True(t, exists)
	}
}

// Eight at once, each with its own connections, as separate services would have.
func TestMigrateIsSafeWhenManyStartAtOnce(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rawURL := newURL(t)
			stores := make([]*Migrator, 8)
			for i := range stores {
				stores[i] = newMigrator(t, dbtest.Open(t, rawURL))
			}
			type result struct {
				applied []string
				err     error
			}
			results := make(chan result)
			for _, s := range stores {
				go func() {
					applied, err := s.Migrate(t.Context(), db.Outbox)
					results <- result{applied, err}
				}()
			}
			var applied []string
			for range stores {
				r := <-results
				require.NoError(t, r.err)
				applied = append(applied, r.applied...)
			}
			all, err := discover(stores[0].migrations, stores[0].dialect, db.Outbox)
			require.NoError(t, err)
			require.Len(t, applied, len(all.Sorted()), "each migration is applied by exactly one")
			requireLanes(t, stores[0], 64)
		})
	}
}

const migrateURL = "CQRSYNC_TEST_MIGRATE_URL"

func TestMigrateIsSafeAcrossProcesses(t *testing.T) {
	if rawURL := os.Getenv(migrateURL); rawURL != "" { // the child
		_, err := newMigrator(t, dbtest.Open(t, rawURL)).Migrate(t.Context(), db.Outbox)
		require.NoError(t, err)
		return
	}
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rawURL := newURL(t)
			children := make([]*exec.Cmd, 2)
			for i := range children {
				children[i] = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMigrateIsSafeAcrossProcesses$")
				children[i].Env = append(os.Environ(), migrateURL+"="+rawURL)
				children[i].Stderr = os.Stderr
				require.NoError(t, children[i].Start())
			}
			for _, child := range children {
				require.NoError(t, child.Wait())
			}
			requireLanes(t, newMigrator(t, dbtest.Open(t, rawURL)), 64)
		})
	}
}

// crash makes a statement fail, the one after a number of others.
type crash struct{ after atomic.Int64 }

func (c *crash) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	if c.after.Add(-1) == -1 {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		return ended
	}
	return ctx
}

func (*crash) AfterQuery(context.Context, *bun.QueryEvent) {}

func TestMigrateRecoversFromACrashAtAnyStatement(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		c := &crash{}
		crashing, s := newMigrator(t, bunDB.WithQueryHook(c)), newMigrator(t, bunDB)
		for after := int64(0); ; after++ {
			c.after.Store(after)
			_, err := crashing.Migrate(t.Context(), db.Outbox)
			if err == nil {
				break
			}
			require.ErrorIs(t, err, context.Canceled)
		}
		require.NoError(t, s.RequireMigrated(t.Context(), db.Outbox))
		requireLanes(t, s, 64)
	})
}

func TestMigrateOnlyReadsWhereThereIsNothingToDo(t *testing.T) {
	rawURL := dbtest.PostgresURL(t)
	_, err := newMigrator(t, dbtest.Open(t, rawURL)).Migrate(t.Context(), db.Outbox)
	require.NoError(t, err)
	readOnly := newMigrator(t, dbtest.Open(t, rawURL+"&default_transaction_read_only=on&target_session_attrs=any"))
	applied, err := readOnly.Migrate(t.Context(), db.Outbox)
	require.NoError(t, err)
	require.Empty(t, applied)
	_, err = readOnly.Migrate(t.Context(), db.Replica)
	require.ErrorContains(t, err, "read-only")
}

func TestMigrateReportsWhatIsInTheWay(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		_, err := bunDB.ExecContext(t.Context(), "CREATE TABLE outbox_lanes (lane integer)")
		require.NoError(t, err)
		applied, err := s.Migrate(t.Context(), db.Outbox)
		require.ErrorContains(t, err, "outbox_lanes")
		require.Empty(t, applied)
		pending, err := s.Pending(t.Context(), db.Outbox)
		require.NoError(t, err)
		require.NotEmpty(t, pending, "the mark went with the transaction")
	})
}

func TestPrintedMigrationsAreSQLThatMigrateRecognises(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		for _, side := range sides {
			sql, err := Print(s.dialect.Name(), side, db.Names{})
			require.NoError(t, err)
			require.NotContains(t, sql, "bun:")
			require.NotContains(t, sql, "{{")
			statements := []string{sql}
			if s.dialect.Name() == "mysql" { // whose driver takes one at a time, as database.Open sets it
				statements = strings.SplitAfter(strings.TrimSpace(sql), ";\n")
			}
			for _, statement := range statements {
				_, err = bunDB.DB.ExecContext(t.Context(), statement) // as it stands: bun's formatting is not in the way
				require.NoError(t, err, statement)
			}
			applied, err := s.Migrate(t.Context(), side)
			require.NoError(t, err)
			require.Empty(t, applied)
		}
		requireLanes(t, s, 64)
	})
}

func TestRequireMigratedNamesTheCommand(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		err := s.RequireMigrated(t.Context(), db.Replica)
		require.ErrorIs(t, err, ErrNotMigrated)
		require.ErrorContains(t, err, "relay migrate --side replica")
		_, err = s.Migrate(t.Context(), db.Replica)
		require.NoError(t, err)
		require.NoError(t, s.RequireMigrated(t.Context(), db.Replica))
		require.ErrorIs(t, s.RequireMigrated(t.Context(), db.Outbox), ErrNotMigrated)
	})
}

func TestPrintMigrationsRefusesUnknownNames(t *testing.T) {
	_, err := Print("oracle", db.Outbox, db.Names{})
	require.ErrorContains(t, err, "want postgres, mysql or sqlite")
	_, err = Print("postgres", "both", db.Names{})
	require.ErrorContains(t, err, `side "both"`)
	_, err = Print("postgres", db.Outbox, db.Names{Prefix: `x"; DROP TABLE y; --`})
	require.ErrorContains(t, err, "table prefix")
	_, err = Print("sqlite", db.Outbox, db.Names{Schema: "s"})
	require.ErrorContains(t, err, "SQLite has no schemas")
}

func TestMigrateReportsAnUnreachableDatabase(t *testing.T) {
	bunDB, err := database.Open("postgres://user:secret@127.0.0.1:1/none?sslmode=disable")
	require.NoError(t, err)
	defer func() { require.NoError(t, bunDB.Close()) }()
	_, err = newMigrator(t, bunDB).Migrate(t.Context(), db.Outbox)
	require.ErrorContains(t, err, "migrate outbox tables")
	require.NotContains(t, err.Error(), "secret")
}

func requireLanes(t *testing.T, s *Migrator, want int) {
	t.Helper()
	var n int
	require.NoError(t, s.DB().NewRaw("SELECT count(*) FROM ?", s.Table("outbox_lanes")).Scan(t.Context(), &n))
	require.Equal(t, want, n)
}

// What an older version left: its tables, with rows in them.
func TestMigrateUpgradesTablesWithRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		makeOutbox(t, s)
		insert(t, bunDB)
		next := newNext(t, bunDB)
		require.ErrorIs(t, next.RequireMigrated(t.Context(), db.Outbox), ErrNotMigrated)
		applied, err := next.Migrate(t.Context(), db.Outbox)
		require.NoError(t, err)
		require.Equal(t, []string{"20991231000001_next"}, applied)
		count, err := bunDB.NewSelect().Table("outbox_messages").Where("note IS NULL").Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, count)
		require.ErrorIs(t, s.RequireMigrated(t.Context(), db.Outbox), ErrNewer)
	})
}

func TestNewerTablesAreRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newMigrator(t, bunDB)
		for _, side := range []db.Side{db.Outbox, db.Replica} {
			_, err := s.Migrate(t.Context(), side)
			require.NoError(t, err)
			_, err = bunDB.ExecContext(t.Context(), "INSERT INTO ? (name, group_id) VALUES ('29991231000001', 1)", bun.Ident(string(side)+"_migrations"))
			require.NoError(t, err)
			for _, err := range []error{s.RequireMigrated(t.Context(), side), func() error { _, err := s.Migrate(t.Context(), side); return err }()} {
				require.ErrorIs(t, err, ErrNewer)
				require.ErrorContains(t, err, "29991231000001")
			}
		}
	})
}
