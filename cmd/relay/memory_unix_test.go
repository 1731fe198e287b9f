//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// TestMemoryDoesNotGrowWithTheRows has another process read rows of a megabyte, and asks the system
// for its peak.
func TestMemoryDoesNotGrowWithTheRows(t *testing.T) {
	path, err := os.Executable()
	require.NoError(t, err)
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			db := dbtest.Open(t, url)
			typ, megabyte := "text", "repeat('x', 1000000)"
			switch name {
			case "mariadb":
				typ = "longtext"
			case "sqlite":
				megabyte = "hex(zeroblob(500000))"
			}
			_, err := db.DB.ExecContext(t.Context(), "CREATE TABLE orders (id integer PRIMARY KEY, doc "+typ+")")
			require.NoError(t, err)
			for id := range 150 {
				doc := "'small'"
				if id >= 50 {
					doc = megabyte
				}
				_, err := db.DB.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO orders VALUES (%d, %s)", id, doc))
				require.NoError(t, err)
			}
			config := filepath.Join(t.TempDir(), "cqrsync.yaml")
			require.NoError(t, os.WriteFile(config, []byte("{queue: webhooks, models: {order: {table: orders}}}"), 0o600))
			require.Zero(t, invoke(t.Context(), "migrate", "--db", url).code)
			for _, line := range []string{
				"dump --model order -q -o /dev/null", "diff-master --model order --filter {} --content -q -o /dev/null", "sync --model order --filter {} -q",
			} {
				cmd := exec.CommandContext(t.Context(), path, append(strings.Fields(line), "--db", url, "--config", config)...)
				cmd.Env = append(os.Environ(), asRelay+"=1")
				output, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", output)
				usage, is := cmd.ProcessState.SysUsage().(*syscall.Rusage)
				require.True(t, is)
				require.Less(t, float64(usage.Maxrss)/1024, mostMegabytes,
					"megabytes, where the rows are 100 and the process has 40 before it begins: %s", line)
			}
		})
	}
}
