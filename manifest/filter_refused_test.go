package manifest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

var wrongConditions = []struct {
	condition, want string
	only            dialect.Name
}{
	{condition: "status <> 'x'; DROP TABLE posts", want: `";" ends a statement`},
	{condition: "status <> 'x' -- all", want: "begins a comment"},
	{condition: "status /* all */ <> 'x'", want: "begins a comment"},
	{condition: "status <> 'x' # all", want: "begins a comment", only: dialect.MySQL},
	{condition: "status <> 'x", want: "quote ' is not closed"},
	{condition: "(status <> 'x'", want: "not closed"},
	{condition: "hits = 1) OR (hits = 2", want: `a ")" has no "("`},
	{condition: " ", want: "it is empty"},
	{condition: "status <>", want: "want one condition"},
	{condition: "hits = 1 UNION SELECT 1", want: "want", only: dialect.PG},
	{condition: "nothing = 1", want: "nothing"},
	{condition: "hits", want: "boolean", only: dialect.PG},
	{condition: "hits + 1", want: "it compares nothing", only: dialect.MySQL},
	{condition: "status", want: "it compares nothing", only: dialect.SQLite},
	{condition: "hits IN (SELECT id FROM posts)", want: "row"},
	{condition: "EXISTS (SELECT 1)", want: "row"},
	{condition: "hits > random()", want: "depend"},
	{condition: "status > now()", want: "now"},
	{condition: "status > CURRENT_TIMESTAMP", want: "depend", only: dialect.SQLite},
	{condition: "hits > rand()", want: "depend", only: dialect.MySQL},
	{condition: "status = current_user", want: "depend"},
	{condition: "status = current_setting('x')", want: "depend"},
	{condition: "count(*) > 1", want: "aggregate", only: dialect.PG},
	{condition: "status = $1", want: "a value that is not there"},
	{condition: "status = ?", want: "a value that is not there", only: dialect.SQLite},
	{condition: `status <> "draft"`, want: "texts stand in single quotes", only: dialect.SQLite},
	{condition: `status = E'\'' ; DROP TABLE posts; --'`, want: "escapes", only: dialect.PG},
	{condition: "date() > status", want: "depend", only: dialect.SQLite},
	{condition: "CAST(hits AS text) || '2026-01-01' > 'now'::timestamptz::text", want: "depend", only: dialect.PG},
	{condition: "to_date(status, 'YYYY') > 'now'", want: "depend", only: dialect.PG},
	{condition: "'epoch'::date + hits::int < 'today'", want: "is another time whenever it is read", only: dialect.PG},
	{condition: "xmin IS NOT NULL", want: "xmin"},
	{condition: "hits = 1 FOR UPDATE", want: "want one condition"},
	{condition: "hits = 1 ORDER BY 1", want: "want one condition"},
	{condition: "hits > 1 AND sleep(1)", want: "sleep"},
	{condition: "row_number() OVER () = 1", want: "row"},
	{condition: "@x := 1", want: "", only: dialect.MySQL},
}

// What is no condition on the row alone is refused before anything is written, by whoever opens the
// file.
func TestFilterThatIsNoConditionOnTheRowIsRefused(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Open(t, newURL(t))
			db{conn.DB}.exec(t, posts)
			c := uncapturedAt(t, newURL(t), posts, "models: {post: {table: posts}}") // with an outbox
			for _, w := range wrongConditions {
				if w.only != dialect.Invalid && w.only != conn.Dialect().Name() {
					continue
				}
				m := manifest.Manifest{Models: map[string]manifest.Model{"post": {Table: "posts", Filter: w.condition}}}
				_, err := m.Box(t.Context(), c.db, outbox.Config{})
				require.ErrorContains(t, err, "model post: filter: ", w.condition)
				require.ErrorContains(t, err, w.want, w.condition)
				_, err = m.Capture(t.Context(), c.db, outbox.Config{})
				require.ErrorContains(t, err, w.want, w.condition)
			}
			var n int
			require.NoError(t, c.db.NewRaw("SELECT count(*) FROM posts").Scan(t.Context(), &n), "the table is still there")
		})
	}
}

var rightConditions = []struct {
	condition string
	only      dialect.Name
}{
	{condition: "status = 'it''s -- (no comment; nothing'"},
	{condition: "status IN ('a', 'b') AND NOT (hits BETWEEN 1 AND 5) OR t.status IS NULL"},
	{condition: "coalesce(lower(status), '') LIKE 'a%'"},
	{condition: "CASE WHEN hits > 5 THEN status = 'a' ELSE status <> 'b' END"},
	{condition: "hits > 1e3 AND length(status) = 5"},
	{condition: `status ~ '^a.*;$' AND "hits" > 0`, only: dialect.PG},
	{condition: "status::text || 'x' <> 'ax'", only: dialect.PG},
	{condition: "t IS NOT NULL", only: dialect.PG},
	{condition: "status = 'now'", only: dialect.PG},
	{condition: `status <> "draft" AND status <> 'it\'s'`, only: dialect.MySQL},
	{condition: "`hits` % 2 = 0", only: dialect.MySQL},
	{condition: `"hits" > 0 AND [status] <> 'x'`, only: dialect.SQLite},
}

func TestFilterMayBeAnyConditionOnTheRow(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedAt(t, newURL(t), posts, "models: {post: {table: posts}}")
			for i, r := range rightConditions {
				if r.only != dialect.Invalid && r.only != c.db.Dialect().Name() {
					continue
				}
				c.m = &manifest.Manifest{Models: map[string]manifest.Model{"post": {Table: "posts", Filter: r.condition}}}
				var err error
				c.box, err = c.m.Box(t.Context(), c.db, outbox.Config{})
				require.NoError(t, err, r.condition)
				c.install()
				c.run(fmt.Sprintf("INSERT INTO posts VALUES (%d, 'a', 6)", i))
				_, err = c.box.Sweep(t.Context())
				require.NoError(t, err, r.condition)
			}
		})
	}
}
