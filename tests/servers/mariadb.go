package servers

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// MariaDB is a MariaDB server.
type MariaDB struct {
	port         int
	program, dir string
	as           *account
	process      *daemon
}

// StartMariaDB makes a server and starts it.
func StartMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	program := lookPath("mariadbd", "/usr/sbin/mariadbd")
	install := lookPath("mariadb-install-db", "/usr/bin/mariadb-install-db")
	if program == "" || install == "" {
		dbtest.Missing(t, "mariadb-server", "install Debian's package mariadb-server")
	}
	dir, as := directory(t, "mysql")
	m := &MariaDB{port: FreePort(t), program: program, dir: dir, as: as}
	require.NoError(t, run(as, install, "--no-defaults", "--datadir="+dir+"/data",
		"--auth-root-authentication-method=normal", "--skip-test-db"))
	t.Cleanup(func() { require.NoError(t, m.Stop(syscall.SIGKILL)) })
	require.NoError(t, m.Start())
	return m
}

// Start starts it and waits until it answers.
func (m *MariaDB) Start() error {
	command := exec.CommandContext(context.Background(), m.program, "--no-defaults",
		"--datadir="+m.dir+"/data", "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", m.port),
		"--socket="+filepath.Join(m.dir, "socket"), "--max-connections=300",
		"--innodb-flush-log-at-trx-commit=2", // outlives a killed server, not a power cut
		"--log-error="+filepath.Join(m.dir, "log"))
	runAs(command, m.as)
	command.Dir = "/"
	var err error
	if m.process, err = launch(command, m.port); err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		err := m.answers()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (m *MariaDB) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	db, err := database.Open(m.URL("mysql"))
	if err != nil {
		return err
	}
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		return err
	}
	return db.Close()
}

// Stop stops it: with SIGTERM, or with SIGKILL, which is a crash.
func (m *MariaDB) Stop(signal syscall.Signal) error { return m.process.stop(signal) }

// URL leads to one of its databases.
func (m *MariaDB) URL(database string) string {
	return fmt.Sprintf("mysql://root@127.0.0.1:%d/%s", m.port, database)
}
