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
		"sqlite://":                              "the file name is missing",
		"postgres://user:s3cret@host:notaport/x": "not a PostgreSQL URL",
		"postgres://user:s3cret@host/x?sslmode=no":     "not a PostgreSQL URL",
		"postgres://host/x?password=s3cret&sslmode=no": "not a PostgreSQL URL",
	} {
		_, err := database.Open(rawURL)
		require.ErrorContains(t, err, want, rawURL)
		require.NotContains(t, err.Error(), "s3cret", rawURL)
	}
}

// FuzzOpen: whatever is wrong with a URL, nothing of its password is in the error.
func FuzzOpen(f *testing.F) {
	for _, seed := range []string{"", "/", "?a=b", "#", "@", ":", "%zz", "%", "://", " ", "\x00", "é", "[", "]", "\\", "^", "&tls=", ";"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, junk string) {
		const mark = "s3cret"
		for _, password := range []string{mark + junk, junk + mark, mark + junk + mark} {
			for _, before := range []string{"postgres://user:", "mysql://user:", "oracle://user:", "user:"} {
				for _, after := range []string{"@127.0.0.1:bad/x", "@/", "@127.0.0.1:1/x?sslmode=no&tls=no", "@127.0.0.1:1/x?collation=%zz"} {
					db, err := database.Open(before + password + after)
					if err == nil {
						_ = db.Close() // it does not connect
						continue
					}
					require.NotContains(t, err.Error(), mark)
				}
			}
		}
	})
}

func TestDelimitersInPasswordsAreNamed(t *testing.T) {
	for _, delimiter := range []string{"/", "?", "#", "@"} {
		for _, scheme := range []string{"postgres", "postgresql", "mysql"} {
			_, err := database.Open(scheme + "://user:s3" + delimiter + "cret@127.0.0.1:1/x")
			require.ErrorContains(t, err, `"`+delimiter+`" before its last @`)
			require.ErrorContains(t, err, "%40")
			require.NotContains(t, err.Error(), "cret")
		}
	}
}

func TestOptionsThatTheDriverDoesNotTakeAreNamed(t *testing.T) {
	_, err := database.Open("mysql://user:s3cret@127.0.0.1:1/x?tls=tok3n&timeout=tok3n&charset=utf8mb4")
	require.ErrorContains(t, err, "the value of timeout, tls")
	require.NotContains(t, err.Error(), "s3cret")
}
