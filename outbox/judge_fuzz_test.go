package outbox

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// fragments are what the fuzz target puts into statements: writes of the tracked table, and what
// may hide them.
var fragments = []string{
	"DELETE FROM orders", "UPDATE orders SET status = 'x'", "INSERT INTO orders VALUES (9, 'x')", "INSERT INTO items VALUES (9, 'x')",
	"REPLACE INTO orders VALUES (1, 'x')", "TRUNCATE orders", "DELETE orders FROM items, orders", "SELECT 1", "SELECT * FROM orders",
	"SELECT wipe()", "wipe()", "EXECUTE wiping", "CALL wiping()", "DO $$BEGIN DELETE FROM orders; END$$", "EXECUTE IMMEDIATE 'DELETE FROM orders'",
	"WITH d AS (", "WITH RECURSIVE d(id) AS (SELECT 1 UNION ALL SELECT 2) ", "SEARCH DEPTH FIRST BY id SET key", "EXPLAIN ANALYZE", "EXPLAIN",
	"PREPARE p AS", "DECLARE c CURSOR FOR", "FETCH ALL FROM c", "COPY (", "SET STATEMENT max_statement_time = 1 FOR", "SAVEPOINT a",
	"ROLLBACK TO a", "COMMIT", "BEGIN", "BEGIN NOT ATOMIC", "END", "IF 1 THEN", "END IF", "CREATE TEMP TABLE orders AS", "CREATE TEMPORARY TABLE orders",
	"CREATE TEMP TABLE x AS", "CREATE TABLE x", "CREATE TEMP VIEW orders AS", "SELECT * INTO TEMP orders FROM items", "DROP TABLE orders", "DROP TABLE",
	"ALTER TABLE orders RENAME TO x", "SET search_path = x", "SET LOCAL search_path TO x", "SELECT set_config('search_path', 'x', true)", "SET ROLE nobody",
	"orders", "Orders", `"orders"`, "`orders`", "[orders]", "'orders'", `U&"ord\0065rs"`, "items", "x", "d", "key",
	"AS", "INTO", "FROM", "ONLY", "ONLY (", "OR REPLACE", "OR IGNORE", "FOR", "FOR UPDATE", "KEY", "NO KEY", "DO", "ON", "THEN", "WHERE", "VALUES",
	"RETURNING *", "JOIN", "LEFT JOIN", "USING", "SET", "SET status = 'x'", "TEMP", "TABLE", "IGNORE", "QUICK", "LIMIT 1", "UNION", "LIKE", "NOT", "1", "1.",
	"(", ")", ";", ",", ".", "=", "*", "::", "@", "@x", "{", "}", "?", "$1", "$$", "$a$", "$a(')", "--", "-- ", "--x\r", "#", "/*", "*/", "/**/", "/*!", "/*M!",
	"'", "''", "\"", "\\", "\\'", "E'", "E'\\'", "e'a'\n'", "N'", "U&'", "X'", "`", "[", "]", "\r", "\n", "\t", "\f", "\v", " ", "\ufeff", "\u00a0", "\x00",
}

// Without coverage guidance the target tries this many texts: go test ./outbox -run FuzzJudge
// -judge.texts 100000.
var (
	judgeTexts = flag.Int("judge.texts", 500, "random texts that FuzzJudge tries beside its seeds")
	judgeSeed  = flag.Uint64("judge.seed", 1, "seed of those texts")
)

// FuzzJudge runs what the judge lets pass on a copy: no row of the tracked table may change, nor
// may the transaction end, unless the judge says that a function is called, or that it ends. SQLite
// runs in this process; the others where their variables say.
func FuzzJudge(f *testing.F) {
	for _, example := range JudgeExamples {
		f.Add(example.Statement, []byte{})
	}
	for i := range fragments {
		f.Add("SELECT 1; SELECT 2", []byte{0, 5, byte(i)})
		f.Add("WITH d AS (SELECT 1) SELECT 2", []byte{0, 6, byte(i), 1, 8, byte(i)})
	}
	random := rand.New(rand.NewPCG(*judgeSeed, 0))
	for range *judgeTexts {
		edits := make([]byte, 3*(1+random.IntN(5)))
		for i := range edits {
			edits[i] = byte(random.Uint32())
		}
		f.Add(JudgeExamples[random.IntN(len(JudgeExamples))].Statement, edits)
	}
	databases := fuzzedDatabases(f)
	f.Fuzz(func(t *testing.T, text string, edits []byte) {
		if len(edits) > 24 || len(text) > 2000 {
			return
		}
		text = edited(text, edits)
		for _, db := range databases {
			db.check(t, text)
		}
	})
}

// edited puts fragments into a text: each three bytes say how, where and which.
func edited(text string, edits []byte) string {
	for edit := range slices.Chunk(edits, 3) {
		if len(edit) < 3 {
			break
		}
		words := strings.SplitAfter(text, " ")
		at := int(edit[1]) % len(words)
		fragment := fragments[int(edit[2])%len(fragments)]
		switch edit[0] % 5 {
		case 0:
			words = slices.Insert(words, at, fragment+" ")
		case 1:
			words[at] = fragment + " "
		case 2:
			words[at] = strings.TrimSuffix(words[at], " ") + fragment
		case 3:
			words[at] = fragment + words[at]
		case 4:
			words = slices.Delete(words, at, at+1)
		}
		text = strings.Join(words, "")
	}
	return text
}

type fuzzedDatabase struct {
	d    dialect.Name
	conn *sql.Conn
}

const trackedRows = `SELECT id, status FROM orders ORDER BY id`

var fuzzedTables = []string{
	`CREATE TABLE orders (id int PRIMARY KEY, status varchar(20))`, `CREATE TABLE items (id int, status varchar(20))`,
	`INSERT INTO orders VALUES (1, 'new'), (2, 'paid')`, `INSERT INTO items VALUES (1, 'new')`,
}

func fuzzedDatabases(f *testing.F) []fuzzedDatabase {
	databases := []fuzzedDatabase{openFuzzed(f, dialect.SQLite, "sqlite", ":memory:")}
	if os.Getenv(dbtest.Variable(dbtest.Postgres)) != "" {
		databases = append(databases, openFuzzed(f, dialect.PG, "pgx", dbtest.PostgresURL(f),
			`CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM orders; RETURN 1; END $$`,
			`CREATE PROCEDURE wiping() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM orders; END $$`,
			`PREPARE wiping AS DELETE FROM orders`,
			`SET statement_timeout = '500ms'`))
	}
	if os.Getenv(dbtest.Variable(dbtest.MariaDB)) != "" {
		u, err := url.Parse(dbtest.MariaDBURL(f))
		require.NoError(f, err)
		password, _ := u.User.Password()
		dsn := fmt.Sprintf("%s:%s@tcp(%s)%s?multiStatements=true", u.User.Username(), password, u.Host, u.Path)
		databases = append(databases, openFuzzed(f, dialect.MySQL, "mysql", dsn,
			`CREATE FUNCTION wipe() RETURNS int BEGIN DELETE FROM orders; RETURN 1; END`,
			`CREATE PROCEDURE wiping() BEGIN DELETE FROM orders; END`,
			`PREPARE wiping FROM 'DELETE FROM orders'`,
			`SET SESSION max_statement_time = 0.5`))
	}
	return databases
}

func openFuzzed(f *testing.F, d dialect.Name, driver, dsn string, statements ...string) fuzzedDatabase {
	db, err := sql.Open(driver, dsn)
	require.NoError(f, err)
	conn, err := db.Conn(f.Context())
	require.NoError(f, err)
	f.Cleanup(func() {
		require.NoError(f, conn.Close())
		require.NoError(f, db.Close())
	})
	for _, statement := range append(slices.Clone(fuzzedTables), statements...) {
		_, err := conn.ExecContext(f.Context(), statement)
		require.NoError(f, err, statement)
	}
	return fuzzedDatabase{d, conn}
}

// check runs a text that the judge lets pass, and undoes it.
func (db fuzzedDatabase) check(t *testing.T, text string) {
	j := judge(text, db.d)
	if j.denied != "" || j.ends || slices.ContainsFunc(j.writes, func(w write) bool { return strings.ToLower(w.table) == "orders" }) {
		return
	}
	if folded := strings.ToUpper(text); strings.Contains(folded, "STDIN") || strings.Contains(folded, "STDOUT") {
		return // database/sql cannot talk that
	}
	run := func(query string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_, err := db.conn.ExecContext(ctx, query)
		return err
	}
	require.NoError(t, run("BEGIN"))
	defer func() { _ = run("ROLLBACK") }()
	want := db.rows(t)
	require.NoError(t, run("SAVEPOINT before_the_text"))
	if err := run(text); err == nil {
		if have := db.rows(t); have != want && !j.calls {
			t.Fatalf("%s: %q passed and changed the rows\nfrom %s\nto   %s", db.d, text, want, have)
		}
	}
	if err := run("ROLLBACK TO SAVEPOINT before_the_text"); err != nil && j.savepoint.verb == "" {
		t.Fatalf("%s: %q passed and ended the transaction: %v", db.d, text, err)
	}
}

// rows reads the tracked table as the flush does, by a name without schema.
func (db fuzzedDatabase) rows(t *testing.T) string {
	rows, err := db.conn.QueryContext(context.WithoutCancel(t.Context()), trackedRows)
	if err != nil {
		return err.Error()
	}
	defer func() { require.NoError(t, rows.Close()) }()
	var all strings.Builder
	for rows.Next() {
		var id int
		var status sql.NullString
		require.NoError(t, rows.Scan(&id, &status))
		fmt.Fprintf(&all, "%d %v, ", id, status)
	}
	require.NoError(t, rows.Err())
	return all.String()
}
