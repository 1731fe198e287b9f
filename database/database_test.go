package database_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/database"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFileNamesAreTakenAsTheyAre(t *testing.T) {
	for _, name := range []string{"plain.db", "with space.db", "a#b.db", "50%25.db", "Zürich.db"} {
		path := filepath.Join(t.TempDir(), name)
		db, err := database.Open("sqlite://" + path)
		require.NoError(t, err)
		_, err = db.ExecContext(context.Background(), "CREATE TABLE t (x)")
		require.NoError(t, err)
		require.NoError(t, db.Close())
		_, err = os.Stat(path)
		require.NoError(t, err, name)
	}
}

func TestBadURLsAreNamedWithoutTheirPassword(t *testing.T) {
	for rawURL, want := range map[string]string{
		"":                                       "want postgres://",
		"orders.db":                              "want postgres://",
		"oracle://user:s3cret@host/x":            `unknown scheme "oracle"`,
		"sqlite://":                              "the file is missing",
		"postgres://user:s3cret@host:notaport/x": "not a PostgreSQL URL",
		"postgres://user:s3cret@host/x?sslmode=no":     "not a PostgreSQL URL",
		"postgres://host/x?password=s3cret&sslmode=no": "not a PostgreSQL URL",
	} {
		_, err := database.Open(rawURL)
		require.ErrorContains(t, err, want, rawURL)
		require.NotContains(t, err.Error(), "s3cret", rawURL)
	}
}

func TestRedact(t *testing.T) {
	for rawURL, want := range map[string]string{
		"postgres://u:s3cret@h/x":          "postgres://u:xxxxx@h/x",
		"postgres://u:s3:@c/ret@h:bad/x":   "postgres://u:xxxxx@h:bad/x",
		"postgres://h/x?password=s3cret":   "postgres://h/x?xxxxx",
		"sqlite://orders.db":               "sqlite://orders.db",
		"host=h password=s3cret":           "(not a URL)",
		"amqp://u:a?b#c@h/v?exchange=x":    "amqp://u:xxxxx@h/v?exchange=x",
		"amqp://guest:guest@localhost:1/v": "amqp://guest:xxxxx@localhost:1/v",
	} {
		require.Equal(t, want, database.Redact(rawURL))
	}
}
