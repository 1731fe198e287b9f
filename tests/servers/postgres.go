package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Postgres is a PostgreSQL cluster.
type Postgres struct {
	Port      int
	bin, data string
	as        *account
	settings  []string
}

// StartPostgres makes a cluster and starts it. Settings are of the form name=value.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	require.NoError(t, err)
	if len(found) == 0 {
		dbtest.Missing(t, dbtest.Postgres, "install Debian's package postgresql")
	}
	data, as := directory(t, "postgres")
	p := &Postgres{
		Port: FreePort(t), bin: filepath.Dir(found[len(found)-1]), data: data, as: as, settings: settings,
	}
	require.NoError(t, p.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C.UTF-8", "--no-sync"))
	require.NoError(t, p.Start())
	t.Cleanup(func() { require.NoError(t, p.end()) })
	return p
}

// end stops the server if it runs.
func (p *Postgres) end() error {
	if _, err := os.Stat(filepath.Join(p.data, "postmaster.pid")); err != nil {
		return nil //nolint:nilerr // without the file no server runs
	}
	return p.Stop("immediate")
}

// Standby copies the cluster as it is now: what it does later does not reach the copy.
func (p *Postgres) Standby(t testing.TB) *Postgres {
	t.Helper()
	dir, as := directory(t, "postgres")
	copied := &Postgres{
		Port: p.Port, bin: p.bin, data: filepath.Join(dir, "data"), as: as, settings: p.settings,
	}
	require.NoError(t, p.run("pg_basebackup", "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port),
		"-U", "postgres", "-D", copied.data, "-X", "stream", "-c", "fast"))
	// Of the sockets of the one that was copied.
	locks, err := filepath.Glob(filepath.Join(copied.data, ".s.PGSQL.*"))
	require.NoError(t, err)
	for _, lock := range locks {
		require.NoError(t, os.Remove(lock))
	}
	signal := filepath.Join(copied.data, "standby.signal")
	require.NoError(t, os.WriteFile(signal, nil, 0o600))
	if as != nil {
		require.NoError(t, os.Chown(signal, int(as.uid), int(as.gid)))
	}
	t.Cleanup(func() { require.NoError(t, copied.end()) })
	return copied
}

// Promote starts a standby, and makes it the server at the address of the one that
// it was copied from, which is dead.
func (p *Postgres) Promote() error {
	if err := p.Start(); err != nil {
		return err
	}
	return p.run("pg_ctl", "-D", p.data, "-w", "promote")
}

func (p *Postgres) run(program string, args ...string) error {
	return run(p.as, filepath.Join(p.bin, program), args...)
}

// Start starts it and waits until it answers.
func (p *Postgres) Start() error {
	options := "-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories=%s -c fsync=off " +
		"-c max_connections=300 -c max_prepared_transactions=10"
	for _, setting := range p.settings {
		options += " -c " + setting
	}
	return p.run("pg_ctl", "-D", p.data, "-w", "-l", filepath.Join(p.data, "log"),
		"-o", fmt.Sprintf(options, p.Port, p.data), "start")
}

// Stop stops it: smart, fast, or immediate, which is a crash.
func (p *Postgres) Stop(mode string) error {
	return p.run("pg_ctl", "-D", p.data, "-w", "-m", mode, "stop")
}

// URL leads to one of its databases.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.Port, database)
}
