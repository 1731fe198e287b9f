package manifest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Two outboxes may capture one table under one id: each gets its messages.
func TestTwoOutboxesCaptureOneTable(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Open(t, newURL(t))
			db{conn.DB}.exec(t, "CREATE TABLE orders (id integer PRIMARY KEY, status varchar(20))")
			m, err := manifest.Parse([]byte("models: {order: {table: orders}}"))
			require.NoError(t, err)
			boxes := map[string]*outbox.Box{}
			for _, prefix := range []string{"a_", "b_"} {
				config := outbox.Config{TablePrefix: prefix}
				boxes[prefix], err = m.Box(t.Context(), conn, config)
				require.NoError(t, err)
				require.NoError(t, boxes[prefix].Migrate(t.Context()))
				triggers, err := m.Capture(t.Context(), conn, config)
				require.NoError(t, err)
				require.NoError(t, triggers.Install(t.Context()))
				found, err := triggers.Check(t.Context())
				require.NoError(t, err)
				require.Empty(t, found)
			}
			db{conn.DB}.exec(t, "INSERT INTO orders VALUES (1, 'new')")
			for prefix, box := range boxes {
				_, err := box.Sweep(t.Context())
				require.NoError(t, err)
				var n int
				require.NoError(t, conn.NewRaw(fmt.Sprintf("SELECT count(*) FROM %soutbox_messages", prefix)).Scan(t.Context(), &n))
				require.Equal(t, 1, n, prefix)
			}
		})
	}
}

// MariaDB tells no trigger of the rows that a foreign key deletes: a table whose rows may go so is
// refused, unless they go with the entity that they belong to, whose own trigger says it.
func TestRowsThatACascadeTakesAreRefusedOnMariaDB(t *testing.T) {
	conn := dbtest.Open(t, dbtest.MariaDBURL(t))
	db{conn.DB}.exec(t, "CREATE TABLE products (id bigint PRIMARY KEY)")
	db{conn.DB}.exec(t, "CREATE TABLE orders (id bigint PRIMARY KEY)")
	db{conn.DB}.exec(t, "CREATE TABLE order_lines (id bigint PRIMARY KEY, order_id bigint, product_id bigint, "+
		"FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE)")
	m, err := manifest.Parse([]byte("models: {order: {table: orders, touch: {order_lines: order_id}}}"))
	require.NoError(t, err)
	box, err := m.Box(t.Context(), conn, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	triggers, err := m.Capture(t.Context(), conn, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, triggers.Install(t.Context()))
	db{conn.DB}.exec(t, "ALTER TABLE order_lines ADD CONSTRAINT gone FOREIGN KEY (product_id) REFERENCES products (id) ON DELETE CASCADE")
	require.ErrorContains(t, triggers.Install(t.Context()), "foreign key gone of table order_lines")
	_, err = triggers.Check(t.Context())
	require.ErrorContains(t, err, "foreign key gone of table order_lines")
}
