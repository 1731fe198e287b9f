package servers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// PgBouncer is a PgBouncer in transaction mode.
type PgBouncer struct{ port int }

// StartPgBouncer starts one. database is a line of its section [databases], poolSize how many
// server connections it has for each database and user.
func StartPgBouncer(t testing.TB, database string, poolSize int) *PgBouncer {
	t.Helper()
	binary := lookPath("pgbouncer", "/usr/sbin/pgbouncer")
	if binary == "" {
		dbtest.Missing(t, "pgbouncer", "install Debian's package pgbouncer")
	}
	dir, as := directory(t, "nobody")
	b := &PgBouncer{port: FreePort(t)}
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
server_login_retry = 1
`, database, b.port, poolSize)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o644))
	command := exec.CommandContext(context.Background(), binary, config)
	runAs(command, as) // it refuses to be root
	var log bytes.Buffer
	command.Stdout, command.Stderr = &log, &log
	process, err := launch(command, b.port)
	t.Cleanup(func() { require.NoError(t, process.stop(syscall.SIGQUIT)) })
	require.NoError(t, err, "%s", &log)
	return b
}

// URL leads through it to one of its databases.
func (b *PgBouncer) URL(user, database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", user, b.port, database)
}

// lookPath finds a program in the PATH or where Debian puts it; empty where it is not installed.
func lookPath(name, otherwise string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if _, err := os.Stat(otherwise); err == nil {
		return otherwise
	}
	return ""
}
