package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestForgetDeleted(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			db := dbtest.Open(t, url)
			s := mastertest.Open(t, db)
			require.NoError(t, s.Adopt(t.Context(), db, "order", []string{"1", "2"}))
			old := map[string]string{
				"postgres": "now() - interval '100 days'", "mariadb": "1", "sqlite": "1",
			}[name]
			_, err := db.ExecContext(t.Context(), "UPDATE outbox_revisions SET deleted = TRUE, updated_at = "+old)
			require.NoError(t, err)

			r := invoke(t.Context(), "forget-deleted", "--db", url)
			require.Equal(t, exit.Usage, r.code)
			require.Contains(t, r.stderr, "--model: not set")
			require.Contains(t, r.stderr, "--older-than: 0s, want 2160h or more")
			r = invoke(t.Context(), "forget-deleted", "--db", url, "--model", "order", "--older-than", "2000h")
			require.Equal(t, exit.Usage, r.code)
			r = invoke(t.Context(), "forget-deleted", "--db", url, "--model", "order", "--older-than", "2160h")
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.Equal(t, "2 deleted keys of order forgotten\n", r.stdout)
			r = invoke(t.Context(), "forget-deleted", "--db", url, "--model", "order", "--older-than", "2160h", "--json")
			require.Equal(t, `{"forgotten":0}`+"\n", r.stdout)
		})
	}
}
