package tables

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/migrations"
)

// insert adds a message as the first version did, which every later one still takes. It fails when that takes longer than a
// lease, or would for ever.
func insert(t *testing.T, bunDB *bun.DB) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), db.DefaultLease)
	defer cancel()
	began := time.Now()
	d, err := db.New(bunDB, db.Names{})
	require.NoError(t, err)
	_, err = bunDB.ExecContext(ctx, d.SQL(`INSERT INTO outbox_messages (lane, model, "key", revision, "signal", pk, data, updated_at)
		VALUES (1, 'order', '1', 0, 'SAVE', '1', '{}', ?)`), d.Dialect().Time(time.Now()))
	require.NoError(t, err)
	return time.Since(began)
}

// nextVersion is what a version to come may change in tables that are in use.
var nextVersion = map[string]string{
	"postgres": "ALTER TABLE {{.Table `outbox_messages`}} ADD COLUMN note text;\n--bun:split\n" +
		"ALTER TABLE {{.Table `outbox_relays`}} ADD COLUMN note text;\n",
	"mysql": "ALTER TABLE {{.Table `outbox_messages`}} ADD COLUMN IF NOT EXISTS note text;\n--bun:split\n" +
		"ALTER TABLE {{.Table `outbox_relays`}} ADD COLUMN IF NOT EXISTS note text;\n",
	"sqlite": "ALTER TABLE {{.Table `outbox_messages`}} ADD COLUMN note text;\n",
}

// newNext is a Store of the next version.
func newNext(t *testing.T, bunDB *bun.DB) *Migrator {
	t.Helper()
	all := fstest.MapFS{}
	require.NoError(t, fs.WalkDir(migrations.FS, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(migrations.FS, path)
		all[path] = &fstest.MapFile{Data: text}
		return err
	}))
	for dialect, text := range nextVersion {
		all[dialect+"/outbox/20991231000001_next.tx.up.sql"] = &fstest.MapFile{Data: []byte(text)}
	}
	s := newMigrator(t, bunDB)
	s.migrations = all
	return s
}

func makeOutbox(t *testing.T, s *Migrator) {
	t.Helper()
	_, err := s.Migrate(t.Context(), db.Outbox)
	require.NoError(t, err)
}

// Whoever waits to change a table makes all wait who want to write to it.
func TestMigrateHoldsUpNobodyWhileOthersReadForLong(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, rawURL string) {
		s := newMigrator(t, dbtest.Open(t, rawURL))
		makeOutbox(t, s)
		reading, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = reading.Rollback() }() // it is over where the test ends as it should
		var count int
		require.NoError(t, reading.NewRaw("SELECT count(*) FROM outbox_messages").Scan(t.Context(), &count))

		said := make(chan string, 100)
		migrating := newNext(t, dbtest.Open(t, rawURL))
		migrating.Limit(db.DefaultLease, func(holders string) { said <- holders })
		ended := make(chan error, 1)
		go func() {
			_, err := migrating.Migrate(t.Context(), db.Outbox)
			ended <- err
		}()
		for heard := false; !heard; {
			insert(t, s.DB())
			select {
			case holders := <-said:
				require.Contains(t, holders, "database process")
				heard = true
			case err := <-ended:
				require.Fail(t, "it did not wait", "%v", err)
			default:
			}
		}
		for range 100 {
			require.Less(t, insert(t, s.DB()), db.DefaultLease/2)
		}
		require.NoError(t, reading.Rollback())
		require.NoError(t, <-ended)
		require.NoError(t, migrating.RequireMigrated(t.Context(), db.Outbox))
	})
}

func TestAFrozenMigrationStopsNobodyElse(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, rawURL string) {
		newURL := dbtest.MariaDBURL
		if strings.HasPrefix(rawURL, "postgres") {
			newURL = dbtest.PostgresURL
		}
		for statement := 0; ; statement++ {
			rawURL := newURL(t)
			s := newMigrator(t, dbtest.Open(t, rawURL))
			makeOutbox(t, s)
			proxy, proxied := dbtest.NewProxy(t, rawURL)
			hook := &dbtest.FreezeBefore{Proxy: proxy, Statements: statement}
			stopped := newNext(t, dbtest.Open(t, proxied).WithQueryHook(hook))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := stopped.Migrate(ctx, db.Outbox)
				ended <- err
			}()
			require.Eventually(t, func() bool { return hook.Frozen() != "" || len(ended) > 0 }, time.Minute, time.Millisecond)
			last := hook.Frozen() == ""
			if !last {
				took := insert(t, s.DB())
				t.Logf("before statement %d: %s (%.40q)", statement, took, hook.Frozen())
				require.Less(t, took, db.Exclusive.Idle+4*time.Second)
			}
			cancel()
			proxy.Close()
			err := <-ended
			if last {
				require.NoError(t, err)
				require.NoError(t, newNext(t, s.DB()).RequireMigrated(t.Context(), db.Outbox))
				return
			}
		}
	})
}

// Another one, of a new version that is being rolled out, does what the stopped one did not.
func TestMigrateTakesOverFromAFrozenOne(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, rawURL string) {
		proxy, proxied := dbtest.NewProxy(t, rawURL)
		hook := &dbtest.FreezeBefore{Proxy: proxy, Statements: 12} // in the middle of the first
		stopped := newMigrator(t, dbtest.Open(t, proxied).WithQueryHook(hook))
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			_, err := stopped.Migrate(ctx, db.Outbox)
			ended <- err
		}()
		require.Eventually(t, func() bool { return hook.Frozen() != "" }, time.Minute, time.Millisecond)
		s := newMigrator(t, dbtest.Open(t, rawURL))
		late, stop := context.WithTimeout(t.Context(), 3*db.DefaultLease)
		defer stop()
		_, err := s.Migrate(late, db.Outbox)
		require.NoError(t, err)
		require.NoError(t, s.RequireMigrated(t.Context(), db.Outbox))
		cancel()
		proxy.Close()
		require.Error(t, <-ended)
	})
}
