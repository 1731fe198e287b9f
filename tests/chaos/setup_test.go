//go:build unix

package chaos

import (
	"fmt"
	"net/url"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// setup is one way to run cqrsync. Its database server is the test's own.
type setup struct {
	name   string
	crew   map[string]int // how many processes of each role
	server func(t *testing.T) databases
}

// databases is a database server, and the way there.
type databases struct {
	start func() error
	stop  func(crash bool) error
	url   func(database string) string // directly
	front func(database string) string // as the processes go, but for the proxy
}

var replicaRoles = []string{mirrorRole, effectsRole}

var separate = map[string]int{writerRole: 2, relayRole: 2, mirrorRole: 2, effectsRole: 2}

var setups = []setup{
	{"postgres", separate, onPostgres},
	{"mariadb", separate, onMariaDB},
	{"pgbouncer", separate, onPgBouncer},
	{"handover", map[string]int{
		serviceRole: 2, relayRole: 1, mirrorRole: 2, effectsRole: 2,
	}, onPostgres},
}

// roles are those of the setup, in the order in which they are dismissed.
func (s setup) roles() (roles []string) {
	for _, role := range []string{writerRole, serviceRole, relayRole, mirrorRole, effectsRole} {
		if s.crew[role] > 0 {
			roles = append(roles, role)
		}
	}
	return roles
}

func onPostgres(t *testing.T) databases {
	t.Helper()
	dbtest.Address(t, dbtest.Postgres)
	p := servers.StartPostgres(t)
	return databases{start: p.Start, stop: stopPostgres(p), url: p.URL, front: p.URL}
}

func stopPostgres(p *servers.Postgres) func(bool) error {
	return func(crash bool) error {
		if crash {
			return p.Stop("immediate")
		}
		return p.Stop("fast")
	}
}

func onPgBouncer(t *testing.T) databases {
	t.Helper()
	dbtest.Address(t, dbtest.Postgres)
	p := servers.StartPostgres(t)
	b := servers.StartPgBouncer(t, fmt.Sprintf("* = host=127.0.0.1 port=%d user=postgres", p.Port), 10)
	front := func(database string) string { return b.URL("postgres", database) }
	return databases{start: p.Start, stop: stopPostgres(p), url: p.URL, front: front}
}

func onMariaDB(t *testing.T) databases {
	t.Helper()
	dbtest.Address(t, dbtest.MariaDB)
	m := servers.StartMariaDB(t)
	stop := func(crash bool) error {
		if crash {
			return m.Stop(syscall.SIGKILL)
		}
		return m.Stop(syscall.SIGTERM)
	}
	return databases{start: m.Start, stop: stop, url: m.URL, front: m.URL}
}

// create makes databases.
func (d databases) create(t *testing.T, names ...string) {
	t.Helper()
	address := d.url("postgres")
	if u, err := url.Parse(address); err == nil && u.Scheme == "mysql" {
		address = d.url("mysql")
	}
	db, err := database.Open(address)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for _, name := range names {
		_, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name)
		require.NoError(t, err)
	}
}

// address is the host and port of a URL.
func address(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	return u.Host
}

// through is a URL by way of a proxy.
func through(t *testing.T, rawURL string, p *proxy) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	u.Host = p.address()
	return u.String()
}
