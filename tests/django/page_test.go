//go:build unix

package django

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/transcript"
)

// TestThePageIsWhatHappens follows docs/from-django.md by each of its three ways, each with
// services of its own.
func TestThePageIsWhatHappens(t *testing.T) {
	d := deploy(t)
	if _, err := exec.LookPath("psql"); err != nil {
		dbtest.Missing(t, dbtest.Postgres, "install Debian's package postgresql-client: the page has psql")
	}
	service := program(t, "go-shop", "./service")
	text, err := os.ReadFile("../../docs/from-django.md")
	require.NoError(t, err)
	code, err := os.ReadFile("service/main.go")
	require.NoError(t, err)
	_, shown, _ := strings.Cut(string(code), "\n") // below the comment of the command
	require.Contains(t, string(text), "```go\n"+shown+"```\n", "the service that is run")
	before, ways, _ := strings.Cut(string(text), "## What to know first")
	for _, way := range []string{"The replica first", "The master first", "Both at once"} {
		_, part, found := strings.Cut(ways, "\n## "+way+"\n")
		require.True(t, found, way)
		part, _, _ = strings.Cut(part, "\n## ")
		steps := transcript.Steps(part)
		require.Greater(t, len(steps), 10, way)
		steps = append(transcript.Steps(before), steps...)
		t.Run(way, func(t *testing.T) { d.in(t).follow(steps, service) })
	}
}

// follow runs steps of the page.
func (d deployment) follow(steps []transcript.Step, service string) {
	d.databases = map[string]string{shop: dbtest.PsqlURL(d), "search": dbtest.PsqlURL(d)}
	d.exchange += "_" + strings.ReplaceAll(filepath.Base(d.Name()), "_", "")
	d.folder = d.TempDir()
	d.Cleanup(func() { d.clearBroker("search") })
	for service, name := range map[string]string{"shop": shop, "search": "search"} {
		d.migrate(service, name)
	}
	bin := d.commands(map[string]string{"shop-manage": shop, "search-manage": "search"})
	require.NoError(d, os.Symlink(service, filepath.Join(bin, "go-shop")))
	held, err := os.ReadFile("held.py")
	require.NoError(d, err)
	require.NoError(d, os.WriteFile(filepath.Join(d.folder, "held.py"), held, 0o600))
	queue := d.queue("search")
	s := transcript.Shell{
		TB: d, Folder: d.folder,
		Env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "BROKER="+d.brokerURL(),
			"SHOP="+d.databases[shop], "SEARCH="+d.databases["search"]),
		// The queue's name is one of this run's.
		Shown: func(output string) string { return strings.ReplaceAll(output, queue, "search") },
		Meant: func(file string) string {
			return strings.ReplaceAll(file, "queue: search", "queue: "+d.queue("search"))
		},
	}
	s.Run(steps)
}
