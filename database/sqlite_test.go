package database_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// newFile opens a new file with a table t.
func newFile(t *testing.T) (db *bun.DB, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "orders.db")
	db = dbtest.Open(t, "sqlite://"+path)
	run(t, db, "CREATE TABLE t (x integer)")
	return db, path
}

func run(t *testing.T, db bun.IDB, statement string) {
	t.Helper()
	_, err := db.ExecContext(soon(t), statement)
	require.NoError(t, err)
}

func count(t *testing.T, db bun.IDB) (n int) {
	t.Helper()
	require.NoError(t, db.NewRaw("SELECT count(*) FROM t").Scan(soon(t), &n))
	return n
}

// soon ends what would hang.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestReadsDoNotWaitForAWriteTransaction(t *testing.T) {
	db, _ := newFile(t)
	require.NoError(t, db.RunInTx(t.Context(), nil, func(_ context.Context, tx bun.Tx) error {
		run(t, tx, "INSERT INTO t VALUES (1)")
		require.Zero(t, count(t, db), "what is committed")
		require.Equal(t, 1, count(t, tx))
		read := make(chan int)
		for range 20 { // more than there are idle connections
			go func() { read <- count(t, db) }()
		}
		for range 20 {
			require.Zero(t, <-read)
		}
		snapshot, err := db.BeginTx(soon(t), &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		require.Zero(t, count(t, snapshot))
		_, err = snapshot.ExecContext(t.Context(), "INSERT INTO t VALUES (2)")
		require.ErrorContains(t, err, "readonly")
		return snapshot.Rollback()
	}))
	require.Equal(t, 1, count(t, db))
	run(t, db, "INSERT INTO t VALUES (3)") // on the connection of the snapshot, perhaps
}

func TestTheDatabaseInPlaceOfTheTransactionIsRefusedAtOnce(t *testing.T) {
	writes := map[string]func(ctx context.Context, db *bun.DB) error{
		"a statement": func(ctx context.Context, db *bun.DB) error {
			_, err := db.ExecContext(ctx, "INSERT INTO t VALUES (1)")
			return err
		},
		"a builder": func(ctx context.Context, db *bun.DB) error {
			_, err := db.NewUpdate().Table("t").Set("x = 2").Where("true").Exec(ctx)
			return err
		},
		"rows": func(ctx context.Context, db *bun.DB) error {
			var x int
			return db.NewRaw("/* one */ INSERT INTO t VALUES (1) RETURNING x").Scan(ctx, &x)
		},
		"with": func(ctx context.Context, db *bun.DB) error {
			_, err := db.ExecContext(ctx, "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a")
			return err
		},
		"prepared": func(ctx context.Context, db *bun.DB) error {
			statement, err := db.DB.PrepareContext(ctx, "DELETE FROM t")
			require.NoError(t, err)
			defer statement.Close()
			_, err = statement.ExecContext(ctx)
			return err
		},
		"a transaction": func(ctx context.Context, db *bun.DB) error {
			return db.RunInTx(ctx, nil, func(context.Context, bun.Tx) error { return nil })
		},
		"BEGIN": func(ctx context.Context, db *bun.DB) error {
			conn, err := db.Conn(ctx)
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.ExecContext(ctx, "begin immediate")
			return err
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			db, path := newFile(t)
			again := dbtest.Open(t, "sqlite://"+path)
			for _, beside := range []*bun.DB{db, again} {
				err := db.RunInTx(t.Context(), nil, func(_ context.Context, tx bun.Tx) error {
					run(t, tx, "INSERT INTO t VALUES (1)")
					return write(soon(t), beside)
				})
				var nested *database.NestedWriteError
				require.ErrorAs(t, err, &nested)
				require.Equal(t, path, nested.File)
				require.Contains(t, nested.Begun, "sqlite_test.go:")
				require.ErrorContains(t, err, "tx in place of db")
				require.Zero(t, count(t, db), "nothing was written")
			}
			require.NoError(t, write(soon(t), db), "afterwards")
		})
	}
}

func TestRowsOfAWriteKeepTheTurnUntilTheyAreClosed(t *testing.T) {
	db, _ := newFile(t)
	rows, err := db.QueryContext(soon(t), "INSERT INTO t VALUES (1), (2) RETURNING x")
	require.NoError(t, err)
	defer rows.Close()
	require.True(t, rows.Next())
	_, err = db.ExecContext(soon(t), "DELETE FROM t")
	require.ErrorContains(t, err, "a statement whose rows are not closed")
	require.NoError(t, rows.Close())
	require.NoError(t, rows.Err())
	run(t, db, "DELETE FROM t")
}

func TestAStatementThatBeginsATransactionHasTheTurn(t *testing.T) {
	db, _ := newFile(t)
	for _, end := range []string{"COMMIT", "ROLLBACK", ""} {
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		run(t, conn, "BEGIN IMMEDIATE")
		run(t, conn, "INSERT INTO t VALUES (1)")
		written := make(chan error)
		go func() {
			_, err := db.ExecContext(soon(t), "INSERT INTO t VALUES (2)")
			written <- err
		}()
		select {
		case err := <-written:
			require.Fail(t, "it did not wait", "%v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if end != "" {
			run(t, conn, end)
		}
		require.NoError(t, conn.Close(), "which rolls back what nobody ended")
		require.NoError(t, <-written)
	}
	require.Equal(t, 4, count(t, db), "one and three")
}

func TestWritersComeInTheirOrder(t *testing.T) {
	db, _ := newFile(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var done sync.WaitGroup
	const writers = 30
	for i := range writers {
		arrived := make(chan struct{})
		done.Go(func() {
			close(arrived)
			run(t, db, fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		})
		<-arrived
		<-time.After(2 * time.Millisecond) // until it waits; too short fails nothing but the order
	}
	require.NoError(t, tx.Rollback())
	done.Wait()
	var got []int
	require.NoError(t, db.NewRaw("SELECT x FROM t ORDER BY rowid").Scan(t.Context(), &got))
	require.Len(t, got, writers)
}

// A transaction that waits for a connection of the pool must not be waited for by all who have one.
func TestATransactionReadsBesideManyWaitingWriters(t *testing.T) {
	db, _ := newFile(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	run(t, tx, "INSERT INTO t VALUES (1)")
	var done sync.WaitGroup
	for range 100 {
		done.Go(func() { run(t, db, "INSERT INTO t VALUES (2)") })
	}
	require.Eventually(t, func() bool { return db.Stats().InUse > 100 }, 10*time.Second, time.Millisecond)
	require.Zero(t, count(t, db))
	require.NoError(t, tx.Commit())
	done.Wait()
	require.Equal(t, 101, count(t, db))
}

func TestALockOfAnotherProcessIsATypedError(t *testing.T) {
	t.Parallel()
	db, path := newFile(t)
	other, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer other.Close()
	conn, err := other.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)

	errs := make(chan error)
	began := time.Now()
	writers := []func() error{
		func() error { return db.RunInTx(soon(t), nil, func(context.Context, bun.Tx) error { return nil }) },
		func() error { _, err := db.ExecContext(soon(t), "INSERT INTO t VALUES (1)"); return err },
		func() error { _, err := db.ExecContext(soon(t), "INSERT INTO t VALUES (1)"); return err },
	}
	for _, write := range writers {
		go func() { errs <- write() }()
	}
	for range writers {
		var busy *database.BusyError
		require.ErrorAs(t, <-errs, &busy)
		require.Equal(t, path, busy.File)
		require.Equal(t, 5, busy.Code())
		require.ErrorContains(t, busy, path)
	}
	require.Less(t, time.Since(began), 19*time.Second, "those who waited as long fail with the first")
	require.Zero(t, count(t, db), "reads go on")
	_, err = conn.ExecContext(t.Context(), "COMMIT")
	require.NoError(t, err)
	run(t, db, "INSERT INTO t VALUES (1)")
}

// Another goroutine than that of the transaction cannot be known to be waited for, but nothing may hang for ever.
func TestATransactionThatDoesNothingIsNotWaitedForForever(t *testing.T) {
	t.Parallel()
	db, path := newFile(t)
	var busy *database.BusyError
	require.NoError(t, db.RunInTx(t.Context(), nil, func(_ context.Context, tx bun.Tx) error {
		run(t, tx, "INSERT INTO t VALUES (1)")
		err := make(chan error)
		go func() {
			_, execErr := db.ExecContext(soon(t), "INSERT INTO t VALUES (2)")
			err <- execErr
		}()
		require.ErrorAs(t, <-err, &busy)
		return nil
	}))
	require.Equal(t, path, busy.File)
	require.Contains(t, busy.Holder, "sqlite_test.go:")
	require.Equal(t, 1, count(t, db))
}

func TestWaitingForTheTurnEndsWithTheContext(t *testing.T) {
	db, path := newFile(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	failed := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "INSERT INTO t VALUES (1)")
		failed <- err
	}()
	err = <-failed
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, path)
	require.NoError(t, tx.Commit())
	run(t, db, "INSERT INTO t VALUES (1)")
}

func TestAFileThatIsGoneIsNotWrittenTo(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, path string){
		"deleted": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"replaced": func(t *testing.T, path string) {
			copied := filepath.Join(t.TempDir(), "copy.db")
			other := dbtest.Open(t, "sqlite://"+path)
			run(t, other, "VACUUM INTO '"+copied+"'")
			require.NoError(t, other.Close())
			require.NoError(t, errors.Join(os.Remove(path+"-wal"), os.Remove(path+"-shm")))
			require.NoError(t, os.Rename(copied, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, path := newFile(t)
			run(t, db, "INSERT INTO t VALUES (1)")
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			run(t, tx, "INSERT INTO t VALUES (2)")
			take(t, path)
			var moved *database.MovedError
			require.ErrorAs(t, tx.Commit(), &moved)
			require.Equal(t, path, moved.File)
			if name == "deleted" {
				require.True(t, moved.Gone)
				_, err = db.ExecContext(t.Context(), "INSERT INTO t VALUES (3)")
				require.ErrorAs(t, err, &moved)
				require.NoFileExists(t, path, "an empty file in its place would hide it")
				return
			}
			require.Equal(t, 1, count(t, db), "the file that is there")
			run(t, db, "INSERT INTO t VALUES (3)")
			require.Equal(t, 2, count(t, dbtest.Open(t, "sqlite://"+path)))
		})
	}
}

func TestTheModeOfAFile(t *testing.T) {
	db, path := newFile(t)
	run(t, db, "INSERT INTO t VALUES (1)")
	reader := dbtest.Open(t, "sqlite://"+path+"?mode=ro")
	require.Equal(t, 1, count(t, reader))
	_, err := reader.ExecContext(t.Context(), "INSERT INTO t VALUES (2)")
	require.ErrorContains(t, err, "mode=ro")
	require.Error(t, reader.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		require.Equal(t, 1, count(t, tx))
		_, err := tx.ExecContext(ctx, "DELETE FROM t")
		return err
	}))
	require.Equal(t, 1, count(t, db))

	missing := filepath.Join(t.TempDir(), "mistyped.db")
	for _, open := range []func() (*bun.DB, error){
		func() (*bun.DB, error) { return database.Open("sqlite://" + missing + "?mode=rw") },
		func() (*bun.DB, error) { return database.Open("sqlite://" + missing + "?mode=ro") },
		func() (*bun.DB, error) { return database.OpenExisting("sqlite://" + missing) },
	} {
		db, err := open()
		require.NoError(t, err)
		err = db.PingContext(t.Context())
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, missing)
		require.NoError(t, db.Close())
		require.NoFileExists(t, missing)
	}
	db, err = database.OpenExisting("sqlite://" + missing + "?mode=rwc")
	require.NoError(t, err)
	require.NoError(t, db.PingContext(t.Context()), "who asks for it")
	require.NoError(t, db.Close())
	require.FileExists(t, missing)
}

func TestWhatAURLOfAFileMeans(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	for rawURL, want := range map[string]string{
		"sqlite://a.db":                          "a.db",
		"sqlite://./b.db?mode=rwc":               "b.db",
		"sqlite://" + folder + "/c.db":           "c.db", // three slashes
		"sqlite:///" + folder + "/d.db":          "d.db", // four
		"sqlite:////" + folder + "//e.db":        "e.db",
		"sqlite://mode=ro.db":                    "mode=ro.db",
		"sqlite://a b;c&d=1.db":                  "a b;c&d=1.db",
		"sqlite://50%41%3F.db":                   "50%41%3F.db",
		"sqlite://" + folder + "/../" + "x#y.db": "../x#y.db",
	} {
		db := dbtest.Open(t, rawURL)
		run(t, db, "CREATE TABLE t (x)")
		require.FileExists(t, want, rawURL)
		require.NoError(t, db.Close())
	}
	require.NoError(t, os.Remove("../x#y.db"))

	for rawURL, want := range map[string]string{
		"sqlite://what?.db":          "a ? in the URL begins the options",
		"sqlite://what?mode=rx":      `mode is "rx"`,
		"sqlite://what?cache=shared": `unknown option "cache"`,
		"sqlite://:memory:":          "want a file",
		"sqlite://folder/":           "that of a folder",
		"sqlite://?mode=ro":          "the file is missing",
	} {
		_, err := database.Open(rawURL)
		require.ErrorContains(t, err, want, rawURL)
	}
}

func TestAFileThatIsNoDatabaseSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text.db")
	require.NoError(t, os.WriteFile(path, []byte(fmt.Sprintf("%01024d", 7)), 0o600))
	err := dbtest.Open(t, "sqlite://"+path).PingContext(t.Context())
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "it is no SQLite database, or damaged")
}

func TestManyMayMakeAFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.db")
	var all sync.WaitGroup
	for range 8 {
		db := dbtest.Open(t, "sqlite://"+path)
		all.Go(func() { run(t, db, "CREATE TABLE IF NOT EXISTS t (x)") })
		all.Go(func() { require.NoError(t, db.PingContext(soon(t))) })
	}
	all.Wait()
}
