// Package dbtest gives tests a real, empty database each: SQLite always,
// PostgreSQL and MariaDB where one is named.
//
// Test packages only; the linter keeps it out of the library.
package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/cqrsync/cqrsync/database"
)

// The services that tests may need, and the variables that say where they are.
const (
	Postgres = "postgres" // CQRSYNC_TEST_POSTGRES=postgres://user:password@host:port/database
	MariaDB  = "mariadb"  // CQRSYNC_TEST_MARIADB=mysql://user:password@host:port/database
	RabbitMQ = "rabbitmq" // CQRSYNC_TEST_RABBITMQ=amqp://user:password@host:port/
	Redis    = "redis"    // CQRSYNC_TEST_REDIS=redis://:password@host:port/database
)

// Variable is the environment variable that holds the address of a service.
func Variable(service string) string { return "CQRSYNC_TEST_" + strings.ToUpper(service) }

// Start finds a service that has no variable, or returns why it cannot. Package tests/containers
// sets it; elsewhere it is nil and such a test is skipped.
var Start func(t testing.TB, service string) (address string, err error)

// Address returns where a service is: by its variable, else from Start, else the test is skipped
// with a message that names the variable. CQRSYNC_TEST_REQUIRE (a comma-separated list of services)
// turns that skip into a failure.
func Address(t testing.TB, service string) string {
	t.Helper()
	if address := os.Getenv(Variable(service)); address != "" {
		return address
	}
	reason := "go run ./tests/withservices COMMAND starts it in a container"
	if Start != nil {
		address, err := Start(t, service)
		if err == nil {
			return address
		}
		reason = err.Error()
	}
	Missing(t, service, fmt.Sprintf("set %s (%s)", Variable(service), reason))
	return ""
}

// Missing skips the test for want of a service, or fails it where CQRSYNC_TEST_REQUIRE
// names that. fix says what to do.
func Missing(t testing.TB, service, fix string) {
	t.Helper()
	message := fmt.Sprintf("needs %s: %s", service, fix)
	if slices.Contains(strings.Split(os.Getenv("CQRSYNC_TEST_REQUIRE"), ","), service) {
		t.Fatal(message)
	}
	t.Skip(message)
}

// Each runs test once per database kind, as a parallel subtest with an empty database of its own.
func Each(t *testing.T, test func(t *testing.T, db *bun.DB)) {
	t.Helper()
	for name, rawURL := range Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, rawURL(t)))
		})
	}
}

// Everywhere runs a suite on every kind of database, and on PostgreSQL with a bun.DB that knows
// nothing of its driver. open makes an empty database.
func Everywhere(t *testing.T, suite func(t *testing.T, open func(testing.TB) *bun.DB)) {
	t.Helper()
	for name, newURL := range Kinds() {
		t.Run(name, func(t *testing.T) {
			suite(t, func(t testing.TB) *bun.DB { return Open(t, newURL(t)) })
		})
	}
	t.Run("postgres, any driver", func(t *testing.T) {
		suite(t, func(t testing.TB) *bun.DB {
			return bun.NewDB(Open(t, PostgresURL(t)).DB, pgdialect.New())
		})
	})
}

// OnServers runs test for every kind of database that has sessions.
func OnServers(t *testing.T, test func(t *testing.T, rawURL string)) {
	t.Helper()
	for name, newURL := range Kinds() {
		if name == "sqlite" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newURL(t))
		})
	}
}

// NotOnMariaDB skips a test there that needs what MariaDB, or bun on it, has not.
func NotOnMariaDB(t testing.TB, db *bun.DB, why string) {
	t.Helper()
	if db.Dialect().Name() == dialect.MySQL {
		t.Skip("not on MariaDB: " + why)
	}
}

// Kinds lists the database kinds: each function makes an empty database and returns its URL.
func Kinds() map[string]func(testing.TB) string {
	return map[string]func(testing.TB) string{
		"sqlite": SQLiteURL, "postgres": PostgresURL, "mariadb": MariaDBURL,
	}
}

// Open opens a URL and closes it when the test ends.
func Open(t testing.TB, rawURL string) *bun.DB {
	t.Helper()
	db, err := database.Open(rawURL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// SQLiteURL names a file that does not exist yet.
func SQLiteURL(t testing.TB) string {
	return "sqlite://" + filepath.Join(t.TempDir(), "test.db")
}

var schemas atomic.Int64

// PostgresURL makes a schema that is dropped when the test ends. The URL's search path holds that
// schema only, so that an unqualified name cannot reach another test's tables.
func PostgresURL(t testing.TB) string {
	t.Helper()
	address := Address(t, Postgres)
	schema := uniqueName()
	exec(t, address, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { exec(t, address, "DROP SCHEMA "+schema+" CASCADE") })
	u, err := url.Parse(address)
	require.NoError(t, err)
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// PsqlURL is PostgresURL as psql takes it too, for tests of what people type.
func PsqlURL(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(PostgresURL(t))
	require.NoError(t, err)
	query := u.Query()
	query.Set("options", "-csearch_path="+query.Get("search_path"))
	query.Del("search_path")
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

// PostgresDatabaseURL makes a database that is dropped when the test ends: for tests of what a
// whole database has only once, such as an extension or a schema of a given name.
func PostgresDatabaseURL(t testing.TB) string {
	t.Helper()
	address := Address(t, Postgres)
	name := uniqueName()
	exec(t, address, "CREATE DATABASE "+name)
	t.Cleanup(func() { exec(t, address, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

// MariaDBURL makes a database that is dropped when the test ends.
func MariaDBURL(t testing.TB) string {
	t.Helper()
	address := Address(t, MariaDB)
	name := uniqueName()
	// Without the character set it is the server's, latin1 where nobody has set another.
	exec(t, address, "CREATE DATABASE "+name+" CHARACTER SET utf8mb4")
	t.Cleanup(func() { exec(t, address, "DROP DATABASE "+name) })
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

func uniqueName() string {
	return fmt.Sprintf("cqrsync_test_%d_%d_%d", os.Getpid(), time.Now().UnixNano(), schemas.Add(1))
}

func exec(t testing.TB, address, statement string) {
	db, err := database.Open(address)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	require.NoError(t, err, "%s at %s", statement, database.Redact(address))
}
