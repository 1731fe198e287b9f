package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestIncarnation(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			require.Contains(t, invoke(t.Context(), "incarnation", "--db", url).stderr, "relay migrate")
			require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", url).code)
			first := invoke(t.Context(), "incarnation", "--db", url)
			require.Equal(t, exit.Done, first.code, first.stderr)
			require.Regexp(t, `^[0-9a-f]{16}-[0-9a-f]{8} since \S+: the tables were made\n$`, first.stdout)
			require.Equal(t, first, invoke(t.Context(), "incarnation", "--db", url))

			second := invoke(t.Context(), "incarnation", "new", "--db", url, "--reason", "a backup of monday")
			require.Equal(t, exit.Done, second.code, second.stderr)
			require.Contains(t, second.stdout, "a backup of monday")
			require.NotEqual(t, first.stdout[:25], second.stdout[:25])
			require.Equal(t, first.stdout[:16], second.stdout[:16])
			require.Contains(t, invoke(t.Context(), "status", "--db", url).stdout, "a backup of monday")
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(invoke(t.Context(), "status", "--db", url, "--json").stdout), &object))
			require.Equal(t, second.stdout[:25], object["incarnation"])
		})
	}
}

func TestStatusOfAReplica(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			status := func(more ...string) result {
				return invoke(t.Context(), append([]string{"status", "--side", "replica", "--db", url}, more...)...)
			}
			if name == "sqlite" {
				require.Contains(t, status().stderr, "does not exist: check the path")
			} else {
				require.Contains(t, status().stderr, "relay migrate --side replica")
			}
			require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--side", "replica", "--db", url).code)
			require.Equal(t, "Everything that came is applied. Not compared with its master yet.\n\n"+
				"waiting messages  0\ndead letters      0\n", status().stdout)
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(status("--json").stdout), &object))
			require.NotEmpty(t, object["at"])
			delete(object, "at")
			want := map[string]any{
				"sentence": "Everything that came is applied. Not compared with its master yet.",
			}
			for _, list := range []string{"masters", "other_databases", "troubles", "verifications"} {
				want[list] = []any{}
			}
			for _, counts := range []string{"dead_letters", "stuck", "waiting"} {
				want[counts] = map[string]any{}
			}
			require.Equal(t, want, object)

			s, err := replicaTables(dbtest.Open(t, url))
			require.NoError(t, err)
			require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "order", Incarnation: "a-1"}, {Model: "user"}}))
			require.Eventually(t, func() bool { // SQLite counts in milliseconds
				now, err := s.Now(t.Context())
				masters, _, mastersErr := s.Masters(t.Context())
				return err == nil && mastersErr == nil && now.After(masters[0].First)
			}, time.Minute, time.Millisecond)
			require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "order", Incarnation: "a-2", Overtaken: 7}}))
			require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "order", Incarnation: "a-1", Returns: 3}}))
			require.NoError(t, s.NoteNeighbour(t.Context(), "q", "other"))
			text := status().stdout
			require.Regexp(t, `master of order +a-1 \(before\), last \S+\n +two masters write it: 3 of its messages`, text)
			require.Regexp(t, `master of order +a-2, last \S+\n +it went back: 7 changes were refused; relay diff, or relay sync --force`, text)
			require.Regexp(t, `master of user +one that does not name itself, last`, text)
			require.Regexp(t, `queue q +another database, other, was found behind it 1 times`, text)
			require.Equal(t, exit.Usage, invoke(t.Context(), "status", "--side", "both", "--db", url).code)
		})
	}
}
