package outbox

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func tables(sql string) string {
	var names []string
	for _, w := range writes(lex(sql, false)) {
		names = append(names, w.verb+" "+strings.ToLower(w.table))
	}
	return strings.Join(names, ", ")
}

func TestTablesThatAStatementWrites(t *testing.T) {
	for sql, want := range map[string]string{
		`INSERT INTO orders (id) VALUES (1)`:                                           "INSERT orders",
		`insert into "shop"."orders" AS o ("id") VALUES (1)`:                           "INSERT orders",
		"INSERT OR REPLACE INTO `orders` VALUES (1)":                                   "INSERT orders",
		`REPLACE INTO orders VALUES (1)`:                                               "REPLACE orders",
		`UPDATE ONLY orders SET x = 1`:                                                 "UPDATE orders",
		`UPDATE "orders" AS "order" SET "x" = 1 WHERE ("order"."id" = 1)`:              "UPDATE orders",
		`UPDATE a x JOIN orders AS y ON TRUE SET x.b = 1`:                              "UPDATE a, UPDATE orders",
		`DELETE FROM lines l`:                                                          "DELETE lines",
		`UPDATE a, orders SET a.x = 1`:                                                 "UPDATE a, UPDATE orders",
		`DELETE FROM orders AS o USING lines WHERE TRUE`:                               "DELETE orders",
		`TRUNCATE TABLE a, ONLY orders RESTART IDENTITY`:                               "TRUNCATE a, TRUNCATE orders",
		`MERGE INTO orders AS o USING s ON o.id = s.id WHEN MATCHED THEN UPDATE SET x`: "MERGE orders",
		`COPY orders (a) FROM STDIN`:                                                   "COPY orders",
		`COPY orders TO STDOUT`:                                                        "",
		`WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d`:                   "DELETE orders",
		`SELECT 1; UPDATE orders SET x = 1; SELECT 2`:                                  "UPDATE orders",
		`/* UPDATE a SET */ -- DELETE FROM b
			UPDATE orders SET x = 'it''s' WHERE y = 'DELETE FROM c'`: "UPDATE orders",
		`DO $$ BEGIN UPDATE orders SET x = 1; END $$`:                                      "UPDATE orders",
		`SELECT $tag$ UPDATE orders SET x = 1 $tag$`:                                       "",
		`SELECT E'\' UPDATE orders SET ' FROM x`:                                           "",
		`SELECT * FROM orders FOR UPDATE`:                                                  "",
		`SELECT * FROM orders FOR NO KEY UPDATE OF orders`:                                 "",
		`SELECT replace(name, 'a', 'b'), truncate(x, 2), "delete" FROM orders`:             "",
		`INSERT INTO a SELECT * FROM orders`:                                               "INSERT a",
		`INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = 1`:                    "INSERT a",
		`CREATE TABLE x (y int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE)`:     "",
		`CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON orders EXECUTE FUNCTION f()`: "",
		`GRANT UPDATE ON orders TO joe`:                                                    "",
		`EXPLAIN ANALYZE DELETE FROM orders`:                                               "DELETE orders",
		`update orders set x = (select max(y) from lines) where id = 1`:                    "UPDATE orders",
		``: "",
	} {
		require.Equal(t, want, tables(sql), sql)
	}
}

func TestColumnsThatAnUpdateAssigns(t *testing.T) {
	columns := assigned(lex(`UPDATE "t" AS "u" SET "a" = 1, u.b = (SELECT x FROM y WHERE z = 2), c = 'd = 1' WHERE e = 1`, false))
	require.Equal(t, []string{"a", "B", "C"}, columns)
}

func TestConflictClause(t *testing.T) {
	columns, updates := conflict(lex(`INSERT INTO t VALUES (' ON CONFLICT (x) DO NOTHING') ON CONFLICT ("a", b) DO UPDATE SET c = 1`, false))
	require.Equal(t, []string{"a", "B"}, columns)
	require.True(t, updates)
	_, updates = conflict(lex(`INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING`, false))
	require.False(t, updates)
	_, updates = conflict(lex(`INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE c = 1`, true))
	require.True(t, updates)
}

// FuzzWrites: any text is read to its end, and a write behind it is still found, unless the text leaves a literal or a
// comment open or is a statement of its own that has not ended.
func FuzzWrites(f *testing.F) {
	for _, seed := range []string{"SELECT 1", "'", `"`, "/*", "--", "$a$", "DO $$", "E'\\'", "INSERT", "UPDATE a", "$1", "\x00\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		for range writes(lex(sql, true)) {
		}
		if strings.ContainsAny(sql, "'\"`$-/*") {
			return
		}
		found := writes(lex(sql+"\n; UPDATE orders SET x = 1", false))
		require.True(t, slices.ContainsFunc(found, func(w write) bool { return w.verb == "UPDATE" && w.table == "ORDERS" }), sql)
	})
}
