package manifest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Rows that were inserted or updated are sent by one statement, all others by another flush. What
// both make is the same.
var plainSituations = []struct {
	name       string
	statements []string
	want       string // messages, or the error
}{
	{"inserts and updates only", []string{"INSERT INTO orders (id) VALUES (3), (4)", "UPDATE orders SET status = 'x' WHERE id <= 3"},
		"order 1 1 SAVE, order 2 1 SAVE, order 3 0 SAVE, order 4 0 SAVE"},
	{"with a delete", []string{"UPDATE orders SET status = 'x'", "DELETE FROM orders WHERE id = 1"}, "order 1 1 DELETE, order 2 1 SAVE"},
	{"with a delete that is rolled back", []string{"SAVEPOINT s", "DELETE FROM orders", "ROLLBACK TO s", "UPDATE orders SET status = 'x'"},
		"order 1 1 SAVE, order 2 1 SAVE"},
	{"a delete of another model", []string{"DELETE FROM customers WHERE id = 6", "UPDATE orders SET status = 'x' WHERE id = 1"},
		"customer 6 1 DELETE, order 1 1 SAVE"},
	{"a row made again", []string{"DELETE FROM orders WHERE id = 1", "INSERT INTO orders (id) VALUES (1)", "UPDATE orders SET status = 'x'"},
		"order 1 1 SAVE, order 2 1 SAVE"},
	{"one row many times", []string{"UPDATE orders SET status = 'x' WHERE id = 1", "UPDATE orders SET status = 'y' WHERE id = 1",
		"INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET total = 9"}, "order 1 1 SAVE"},
	{"immediate constraints", []string{"SET CONSTRAINTS ALL IMMEDIATE", "UPDATE orders SET status = 'x' WHERE id = 1",
		"DELETE FROM orders WHERE id = 1", "INSERT INTO orders (id) VALUES (1)"}, "order 1 1 SAVE, order 1 2 DELETE, order 1 3 SAVE"},
}

func TestPlainFlushSendsWhatTheOtherSends(t *testing.T) {
	for _, s := range plainSituations {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			const touching = `models: {order: {table: orders, touch: {lines: order_id}}, customer: {table: customers}}`
			var data [2][]sent
			for i, text := range []string{ordersYAML, touching} {
				c := capturedOn(t, orders, text)
				c.run("INSERT INTO customers VALUES (5, 'c'), (6, 'd')", "INSERT INTO orders (id, customer_id) VALUES (1, NULL), (2, 5)")
				c.take()
				require.NoError(t, c.try(s.statements...))
				data[i] = c.all()
				require.Equal(t, s.want, strings.Join(c.take(), ", "))
				c.run("UPDATE orders SET status = 'later'")
				c.take()
				var deleted int
				require.NoError(t, c.db.NewRaw(`SELECT count(*) FROM outbox_revisions WHERE model = 'order' AND deleted
					AND key IN (SELECT id::text FROM orders)`).Scan(t.Context(), &deleted))
				require.Zero(t, deleted)
			}
			require.Equal(t, data[1], data[0])
		})
	}
}

// What cannot be sent stops the commit, in either flush.
func TestPlainFlushRefusesWhatCannotBeSent(t *testing.T) {
	c := capturedOn(t, `CREATE TABLE days (id bigint PRIMARY KEY, day date); CREATE TABLE days_old (LIKE days INCLUDING ALL) INHERITS (days)`,
		"models: {day: {table: days}}")
	c.run("INSERT INTO days VALUES (1, '2026-12-01')")
	require.Equal(t, []string{"day 1 0 SAVE"}, c.take())
	require.ErrorContains(t, c.try("UPDATE days SET day = 'infinity'", "INSERT INTO days VALUES (2, NULL)"),
		"column day of table days holds what replicas cannot read, in the row 1")
	require.ErrorContains(t, c.try("INSERT INTO days_old VALUES (1, NULL)"), "several rows of one key")
	require.ErrorContains(t, c.try("INSERT INTO days VALUES (3, NULL)", "ALTER TABLE days DISABLE TRIGGER USER",
		"DELETE FROM days WHERE id = 3"), "row 3 of table days was written in this transaction and is not found at its end")
	require.Empty(t, c.take())
}

// A key that somebody else raises meanwhile is raised behind him, and sent with a later revision.
func TestPlainFlushWaitsForTheLedger(t *testing.T) {
	c := capturedOn(t, orders, ordersYAML)
	c.run("INSERT INTO orders (id) VALUES (1)")
	c.take()
	other, err := c.db.DB.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = other.Rollback() }() // nothing after a commit
	_, err = other.ExecContext(t.Context(), "UPDATE outbox_revisions SET revision = revision + 1, after = produced, produced = revision + 1")
	require.NoError(t, err)
	written := make(chan error, 1)
	go func() { written <- c.try("UPDATE orders SET status = 'x'") }()
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, c.db.NewRaw(`SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
			WHERE NOT l.granted AND a.query = 'commit' OR NOT l.granted AND a.query LIKE '%COMMIT%'`).Scan(t.Context(), &waiting))
		return waiting > 0
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, other.Commit())
	require.NoError(t, <-written)
	require.Equal(t, []string{"order 1 2 SAVE"}, c.take())
}
