package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/transcript"
)

// TestTranscriptsAreWhatHappens runs the console blocks of docs/operations.md, one after the other
// in one directory.
func TestTranscriptsAreWhatHappens(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		dbtest.Missing(t, dbtest.Postgres, "install Debian's package postgresql-client: the transcripts use psql")
	}
	master, replica := dbtest.PsqlURL(t), dbtest.PsqlURL(t)
	shop, stats := dbtest.PsqlURL(t), dbtest.PsqlURL(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "relay"), ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	s := transcript.Shell{TB: t, Folder: dir, Env: append(os.Environ(), "MASTER="+master, "REPLICA="+replica, "SHOP="+shop, "STATS="+stats,
		"PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))}

	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	steps := transcript.Steps(string(text))
	require.Greater(t, len(steps), 20, "the console blocks were found")
	s.Run(steps)
}
