package servers

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
)

// Follow makes a standby on a port of its own, which runs, and gets from now on what the server
// writes. It calls itself name there, as synchronous_standby_names wants it.
func (p *Postgres) Follow(t testing.TB, name string) *Postgres {
	t.Helper()
	dir, as := directory(t, "postgres")
	s := &Postgres{
		Port: OwnPort(t), bin: p.bin, data: filepath.Join(dir, "data"), as: as, settings: p.settings,
	}
	require.NoError(t, p.run("pg_basebackup", "-D", s.data, "-X", "stream", "-c", "fast", "-R", "-d",
		fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s", p.Port, name)))
	require.NoError(t, s.Start())
	t.Cleanup(func() { require.NoError(t, s.end()) })
	return s
}

// TakeOver makes a standby that runs the primary.
func (p *Postgres) TakeOver() error { return p.run("pg_ctl", "-D", p.data, "-w", "promote") }

// Set changes a setting of a server that runs.
func (p *Postgres) Set(ctx context.Context, name, value string) error {
	db, err := database.Open(p.URL("postgres") + "&target_session_attrs=any")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // what it did is done
	_, err = db.ExecContext(ctx, "ALTER SYSTEM SET "+name+" = '"+value+"'")
	if err == nil {
		_, err = db.ExecContext(ctx, "SELECT pg_reload_conf()")
	}
	return err
}

// Followers counts those who get what the server writes, in the given state: streaming is that of
// all, sync that of those whom commits wait for.
func (p *Postgres) Followers(ctx context.Context, state string) (n int, err error) {
	db, err := database.Open(p.URL("postgres"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }() // it was only read from
	err = db.NewRaw("SELECT count(*) FROM pg_stat_replication WHERE ? IN (state, sync_state)", state).
		Scan(ctx, &n)
	return n, err
}

// URLOf leads to a database of whichever of these servers is the primary.
func URLOf(database string, cluster ...*Postgres) string {
	var hosts []string
	for _, p := range cluster {
		hosts = append(hosts, "127.0.0.1:"+strconv.Itoa(p.Port))
	}
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", strings.Join(hosts, ","), database)
}
