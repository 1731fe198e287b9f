package manifest_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

// A file made from the catalog is one that works, and says what it leaves out.
func TestAFirstFileIsMadeFromTheCatalog(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Open(t, newURL(t))
			strange := map[string]string{"postgres": "money", "mariadb": "point", "sqlite": "geometry"}[name]
			db{conn.DB}.exec(t, "CREATE TABLE orders (id integer PRIMARY KEY, status varchar(20), place "+strange+")")
			db{conn.DB}.exec(t, "CREATE TABLE customers (id integer PRIMARY KEY, name varchar(20))")
			db{conn.DB}.exec(t, "CREATE TABLE logs (text varchar(20))")
			db{conn.DB}.exec(t, "CREATE TABLE order_lines (id integer PRIMARY KEY, order_id integer, FOREIGN KEY (order_id) REFERENCES orders (id))")
			box, err := outbox.New(conn, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))

			text, err := manifest.Generate(t.Context(), conn, "")
			require.NoError(t, err)
			require.Contains(t, text, "  customers:\n    table: customers\n")
			require.Contains(t, text, "  orders:\n    table: orders\n    columns: [id, status]\n"+
				"    # column place is left out: ")
			require.Contains(t, text, "    # to nest rows of order_lines: relations: {order_lines: {table: order_lines, key: order_id, many: true}}\n")
			require.Contains(t, text, "# table logs is left out: it has no primary key")
			require.NotContains(t, text, "outbox_")
			m, err := manifest.Parse([]byte(text))
			require.NoError(t, err)
			triggers, err := m.Capture(t.Context(), conn, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, triggers.Install(t.Context()))
			found, err := triggers.Check(t.Context())
			require.NoError(t, err)
			require.Empty(t, found)
			db{conn.DB}.exec(t, "INSERT INTO orders (id, status) VALUES (1, 'new')")
			err = triggers.Remove(t.Context())
			if name != "postgres" { // there the message went out with the commit
				require.ErrorContains(t, err, "1 changes are noted")
				sweeper, err := m.Box(t.Context(), conn, outbox.Config{})
				require.NoError(t, err)
				swept, err := sweeper.Sweep(t.Context())
				require.NoError(t, err)
				require.Equal(t, 1, swept)
				require.NoError(t, triggers.Remove(t.Context()))
			} else {
				require.NoError(t, err)
			}
			requireNoTrace(t, conn)
		})
	}
}

// requireNoTrace looks for what Install made: only the tables of the outbox may be left.
func requireNoTrace(t *testing.T, conn *bun.DB) {
	t.Helper()
	queries := []string{"SELECT name FROM sqlite_master WHERE name LIKE '%cqrsync%' OR name LIKE 'outbox_dirty%'"}
	switch conn.Dialect().Name() { //nolint:exhaustive // those that have triggers
	case dialect.PG:
		queries = []string{
			"SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname ~ 'outbox_(marks|dirty)'",
			"SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname ~ 'outbox_(mark|flush|take|settings)'",
			"SELECT tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = current_schema()::regnamespace AND tgname LIKE 'cqrsync%'",
		}
	case dialect.MySQL:
		queries = []string{
			"SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = database() AND trigger_name LIKE 'cqrsync%'",
			"SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_name = 'outbox_dirty'",
		}
	}
	for _, query := range queries {
		var left []string
		require.NoError(t, conn.NewRaw(query).Scan(t.Context(), &left))
		require.Empty(t, left)
	}
}
