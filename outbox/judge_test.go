package outbox

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"
)

// judged renders a judgement for comparison and for the page in docs.
func judged(j judgement) string {
	var parts []string
	for _, w := range j.writes {
		name := strings.ToLower(w.table)
		if w.schema != "" {
			name = strings.ToLower(w.schema) + "." + name
		}
		parts = append(parts, w.verb+" "+name)
	}
	if j.savepoint.verb != "" {
		parts = append(parts, j.savepoint.verb+" "+j.savepoint.name)
	}
	switch {
	case j.denied != "":
		parts = append(parts, [...]string{"", "denied (schema)", "denied (mentioned)", "denied (any)"}[j.reach])
	case j.calls:
		parts = append(parts, "calls")
	}
	if j.ends {
		parts = append(parts, "ends")
	}
	return strings.Join(parts, ", ")
}

var dialects = map[string]dialect.Name{"pg": dialect.PG, "mariadb": dialect.MySQL, "sqlite": dialect.SQLite}

// JudgeExample is a statement, the databases that have it, and what the judge makes of it in the
// words of judged.
type JudgeExample struct{ Databases, Statement, Outcome string }

// JudgeExamples holds every kind of statement that is allowed or denied, and every disguise.
var JudgeExamples = []JudgeExample{
	// Plain writes.
	{"pg mariadb sqlite", `INSERT INTO orders (id) VALUES (1)`, "INSERT orders"},
	{"pg sqlite", `insert into "shop"."orders" AS o ("id") VALUES (1)`, "INSERT shop.orders"},
	{"mariadb sqlite", "INSERT INTO `shop`.`orders` VALUES (1)", "INSERT shop.orders"},
	{"mariadb sqlite", `REPLACE INTO orders VALUES (1)`, "REPLACE orders"},
	{"sqlite", `INSERT OR REPLACE INTO orders VALUES (1)`, "INSERT orders"},
	{"sqlite", `UPDATE OR IGNORE orders SET x = 1`, "UPDATE orders"},
	{"sqlite", `DELETE FROM [orders]`, "DELETE orders"},
	{"sqlite", `DELETE FROM 'orders'`, "DELETE orders"},
	{"sqlite", "DELETE FROM main.'orders'", "DELETE main.orders"},
	{"mariadb sqlite", "DELETE FROM `orders`", "DELETE orders"},
	{"pg", `UPDATE ONLY orders SET x = 1`, "UPDATE orders"},
	{"pg", `DELETE FROM ONLY (orders)`, "DELETE orders"},
	{"pg", `DELETE FROM "or""ders"`, `DELETE or"ders`},
	{"pg sqlite", `UPDATE "orders" AS "order" SET "x" = 1 WHERE ("order"."id" = 1)`, "UPDATE orders"},
	{"pg", `DELETE FROM orders AS o USING lines WHERE TRUE`, "DELETE orders"},
	{"pg", `MERGE INTO orders AS o USING s ON o.id = s.id WHEN MATCHED THEN UPDATE SET x = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)`,
		"MERGE orders"},
	{"pg sqlite", `WITH d AS (SELECT 1) UPDATE orders SET x = 1`, "UPDATE orders"},
	{"pg", `WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d`, "DELETE orders"},
	{"pg", `WITH a AS (DELETE FROM orders), b AS (INSERT INTO logs SELECT 1) UPDATE lines SET x = 1`,
		"DELETE orders, INSERT logs, UPDATE lines"},
	{"pg", `WITH RECURSIVE d (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM d WHERE id < 2)
		SEARCH DEPTH FIRST BY id SET key UPDATE orders SET status = 'x'`, "UPDATE orders"},
	{"pg sqlite", `INSERT INTO logs VALUES (1) ON CONFLICT ("id") DO UPDATE SET x = 1`, "INSERT logs, calls"},
	{"mariadb", `INSERT INTO logs SET x = 1 ON DUPLICATE KEY UPDATE x = 1`, "INSERT logs"},
	{"mariadb", `INSERT HIGH_PRIORITY IGNORE orders VALUES (1)`, "INSERT orders"},
	{"pg", `TRUNCATE TABLE a, ONLY orders RESTART IDENTITY`, "TRUNCATE a, TRUNCATE orders"},
	{"pg", `COPY orders (a, "to") FROM STDIN`, "COPY orders"},
	{"pg", `COPY orders TO STDOUT`, ""},
	{"pg", `COPY (DELETE FROM orders RETURNING *) TO STDOUT`, "DELETE orders"},
	{"pg", `COPY logs TO PROGRAM 'psql'`, "denied (any)"},
	{"pg", `COPY (SELECT 1) TO PROGRAM 'psql'`, "denied (any)"},
	{"pg", `COPY logs FROM PROGRAM 'psql'`, "COPY logs, denied (any)"},
	{"sqlite", `INSERT OR ROLLBACK INTO logs VALUES (1)`, "INSERT logs, ends"},
	{"mariadb", "update`orders`set x = 1", "UPDATE orders"},
	{"pg sqlite", `UPDATE"orders"SET x = 1`, "UPDATE orders"},
	{"pg", `EXPLAIN ANALYZE CREATE TABLE x AS WITH d AS (DELETE FROM orders RETURNING 1) SELECT 1`,
		"CREATE x, DELETE orders"},
	{"mariadb", `ANALYZE DELETE o FROM orders o`, "DELETE o, DELETE orders"},
	{"pg mariadb sqlite", `update orders set x = (select max(y) from lines) where id = 1`, "UPDATE orders"},
	{"pg", `UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'`, "UPDATE pg_settings, denied (schema)"},
	{"pg", `DELETE FROM pg_catalog.pg_class`, "DELETE pg_catalog.pg_class, denied (schema)"},
	{"sqlite", `UPDATE sqlite_master SET sql = ''`, "UPDATE sqlite_master, denied (schema)"},
	{"mariadb", `DELETE FROM mysql.user`, "DELETE mysql.user, denied (schema)"},

	// MariaDB joins.
	{"mariadb", `UPDATE logs x JOIN orders AS y ON TRUE SET y.b = 1`, "UPDATE logs, UPDATE orders"},
	{"mariadb", `UPDATE logs, orders SET orders.x = 1`, "UPDATE logs, UPDATE orders"},
	{"mariadb", `UPDATE (logs, shop.orders) SET x = 1`, "UPDATE logs, UPDATE shop.orders"},
	{"mariadb", `UPDATE LOW_PRIORITY IGNORE logs STRAIGHT_JOIN .orders SET x = 1`, "UPDATE logs, UPDATE orders"},
	{"mariadb", `UPDATE {OJ logs LEFT JOIN orders ON TRUE} SET x = 1`, "UPDATE oj, UPDATE orders, denied (mentioned)"},
	{"mariadb", `DELETE o FROM logs AS l JOIN orders AS o`, "DELETE o, DELETE logs, DELETE orders"},
	{"mariadb", `DELETE FROM o USING logs JOIN orders AS o WHERE TRUE`, "DELETE o, DELETE logs, DELETE orders"},
	{"mariadb", `DELETE QUICK orders.* FROM orders`, "DELETE quick, DELETE orders"},
	{"mariadb", `DELETE HISTORY FROM orders`, "DELETE history, DELETE orders"},
	{"mariadb", `UPDATE logs JOIN (SELECT id FROM lines LIMIT 1) AS d SET x = 1`, "UPDATE logs, UPDATE select, UPDATE lines"},

	// Reads.
	{"pg mariadb sqlite", `SELECT * FROM orders`, ""},
	{"pg mariadb", `SELECT * FROM orders FOR UPDATE`, ""},
	{"pg", `SELECT * FROM orders FOR NO KEY UPDATE OF orders`, ""},
	{"pg mariadb", `(SELECT 1) UNION (SELECT 2)`, ""},
	{"pg sqlite", `SELECT replace(name, 'a', 'b'), count(*), "delete" FROM orders`, ""},
	{"pg mariadb sqlite", `SELECT wipe()`, "calls"},
	{"pg mariadb sqlite", `SELECT shop.count(1)`, "calls"},
	{"pg mariadb", `SELECT count (1)`, "calls"}, // to MariaDB a function of the user's
	{"pg", `SELECT "count"(1)`, "calls"},
	{"pg", `SELECT * FROM wipe() AS t`, "calls"},
	{"pg", `SELECT lo_unlink(1), query_to_xml('DELETE FROM orders', true, true, '')`, "calls"},
	{"pg", `SELECT dblink_exec('', 'DELETE FROM orders')`, "calls"},
	{"pg", `SELECT ts_stat('SELECT wipe()')`, "calls"},
	{"pg", `SELECT nextval('orders_id_seq'), now()`, ""},
	{"pg", `SELECT 1 === 2`, "calls"},
	{"pg", `SELECT '1'::shop.kind`, "calls"},
	{"pg", `SELECT '1'::int8, a ->> 'x', -1, 2*-3 FROM orders`, ""},
	{"pg", `SELECT set_config('app.tenant', '42', true)`, "calls"},
	{"pg", `SELECT set_config('search_path', 'other', true)`, "denied (schema)"},
	{"pg", `SELECT pg_catalog."set_config"('search_' || 'path', 'other', true)`, "denied (schema)"},
	{"pg", "SELECT set_config('app.'\n'x', 'other', true)", "denied (schema)"},
	{"pg", `SELECT * INTO TEMP orders FROM lines`, "CREATE orders"},
	{"mariadb", `SELECT 1 INTO OUTFILE '/nowhere/x'`, ""},
	{"mariadb", `SELECT 1 INTO @x`, ""},
	{"pg", `TABLE orders`, ""},
	{"pg mariadb sqlite", `VALUES (1, 2)`, ""},
	{"pg mariadb", `SHOW search_path`, ""},
	{"mariadb", `SHOW TABLES WHERE wipe()`, "calls"},
	{"pg mariadb sqlite", ``, ""},
	{"pg mariadb sqlite", ` ; ;`, ""},

	// EXPLAIN.
	{"pg mariadb sqlite", `EXPLAIN DELETE FROM orders`, ""},
	{"sqlite", `EXPLAIN QUERY PLAN DELETE FROM orders`, ""},
	{"mariadb", `EXPLAIN FORMAT=JSON UPDATE orders SET x = 1`, ""},
	{"mariadb", `DESCRIBE orders`, ""},
	{"pg", `EXPLAIN ANALYZE DELETE FROM orders`, "DELETE orders"},
	{"pg", `EXPLAIN (FORMAT JSON, ANALYSE) DELETE FROM orders`, "DELETE orders"},
	{"pg", `EXPLAIN ANALYZE (SELECT 1)`, "calls"},
	{"pg", `EXPLAIN ANALYZE EXECUTE wipe`, "denied (any)"},
	{"mariadb", `ANALYZE FORMAT=JSON DELETE FROM orders`, "DELETE orders"},

	// Several statements in one text.
	{"pg mariadb sqlite", `SELECT 1; UPDATE orders SET x = 1; SELECT 2`, "UPDATE orders"},
	{"pg mariadb sqlite", `SELECT ';'; DELETE FROM orders`, "DELETE orders"},
	{"pg mariadb sqlite", `SELECT 1; COMMIT`, "ends"},
	{"pg", `SELECT 1; DO 'x'`, "denied (mentioned)"},

	// Code.
	{"pg", `DO $$ BEGIN UPDATE orders SET x = 1; END $$`, "UPDATE orders, denied (mentioned)"},
	{"pg", `/* x */ DO $a$ BEGIN IF TRUE THEN DELETE FROM orders; END IF; END $a$`, "DELETE orders, denied (mentioned)"},
	{"pg", `DO LANGUAGE plpgsql 'BEGIN DELETE FROM "orders" WHERE x = ''y''; END'`, "DELETE orders, denied (mentioned)"},
	{"pg", `DO 'BEGIN EXECUTE ''DELETE FROM ord'' || ''ers''; END'`, "denied (any)"},
	{"pg", `DO E'BEGIN DELETE FROM ord\145rs; END'`, "DELETE ord, denied (any)"},
	{"pg", `DO LANGUAGE plpython3u $$ plpy.x() $$`, "denied (any)"},
	{"mariadb", `DO wipe()`, "denied (mentioned)"},
	{"pg mariadb", `CALL wipe()`, "denied (any)"},
	{"pg mariadb", `EXECUTE wipe`, "denied (any)"},
	{"mariadb", `EXECUTE IMMEDIATE 'DELETE FROM orders'`, "denied (any)"},
	{"pg", `PREPARE d AS DELETE FROM orders`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `PREPARE d FROM 'DELETE FROM orders'`, "denied (mentioned)"},
	{"mariadb", `BEGIN NOT ATOMIC IF 1 THEN DELETE FROM orders; END IF; END`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `IF 1 THEN DELETE FROM orders; END IF`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `FOR i IN 1..2 DO DELETE FROM orders; END FOR`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `SET STATEMENT max_statement_time=1 FOR DELETE FROM orders`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `SET STATEMENT max_statement_time=1 FOR UPDATE orders SET x = 1`, "UPDATE orders, denied (mentioned)"},
	{"mariadb", `LOAD DATA INFILE '/nowhere/x' REPLACE INTO TABLE orders`, "REPLACE orders, denied (mentioned)"},
	{"mariadb", `HANDLER orders OPEN`, "denied (mentioned)"},
	{"mariadb", `BINLOG 'x'`, "denied (any)"},
	{"pg mariadb sqlite", `FROBNICATE orders`, "denied (mentioned)"},
	{"pg", `DECLARE c CURSOR FOR SELECT * FROM orders`, ""},
	{"pg", `DECLARE c CURSOR WITH HOLD FOR SELECT wipe()`, "denied (any)"},
	{"pg", `FETCH 1 FROM c`, "calls"},
	{"pg", `CLOSE c`, ""},
	{"pg", `TRUNCATE logs CASCADE`, "TRUNCATE logs, denied (any)"},

	// What cannot be read for certain.
	{"pg", `DELETE FROM U&"ord\0065rs"`, "DELETE u, denied (any)"},
	{"pg", `SELECT U&'ord\0065rs'`, ""},
	{"mariadb", `/*! DELETE FROM orders */`, "denied (mentioned)"},
	{"mariadb", `/*M! CALL wipe() */`, "denied (any)"},
	{"mariadb", `SELECT 1 /*!50000 INTO OUTFILE '/nowhere/x' */`, "denied (mentioned)"},
	{"pg mariadb", `SELECT /* `, "denied (mentioned)"},
	{"pg mariadb sqlite", `SELECT '`, "denied (mentioned)"},
	{"pg mariadb sqlite", "SELECT 1\x00; DELETE FROM orders", "DELETE orders, denied (mentioned)"},
	{"mariadb", `SELECT "a\"; DELETE FROM orders; -- "`, "DELETE orders, denied (mentioned)"},
	{"mariadb", `DELETE FROM "orders"`, "DELETE orders"},
	{"sqlite", `SELECT $a(')`, "denied (mentioned)"},
	{"sqlite", "DELETE FROM \ufefforders", "DELETE \ufefforders, denied (mentioned)"},
	{"pg", "SELECT E'a'\n'\\', ' ; DELETE FROM orders --'", "denied (mentioned)"},
	{"pg", `SELECT 1INTO orders FROM lines`, "denied (mentioned)"},
	{"pg", `DELETE FROM ` + strings.Repeat("x", 64), "DELETE " + strings.Repeat("x", 64) + ", denied (any)"},

	// Literals and comments.
	{"pg mariadb sqlite", "/* UPDATE a SET */ -- DELETE FROM b\nUPDATE orders SET x = 'it''s' WHERE y = 'DELETE FROM c'", "UPDATE orders"},
	{"pg", `SELECT /* /* */ DELETE FROM a */ 1`, ""},
	{"mariadb sqlite", `SELECT 1 /* /* */; DELETE FROM orders /* */ -- */`, "DELETE orders"},
	{"pg", "SELECT 1 -- x\rFROM x; DELETE FROM orders", "DELETE orders"},
	{"mariadb", "SELECT 1 # DELETE FROM a\n; DELETE FROM orders", "DELETE orders"},
	{"mariadb", "SELECT 1 --1; DELETE FROM orders", "DELETE orders"},
	{"pg", `SELECT $tag$ $$ UPDATE orders SET x = 1 $tag$, a$b$ FROM x; DELETE FROM orders --$b$`, "DELETE orders"},
	{"pg", `SELECT E'\' UPDATE orders SET ' FROM x`, ""},
	{"pg", `SELECT DATE'2020\'; DELETE FROM orders; --'`, "DELETE orders"},
	{"pg sqlite", `SELECT '\'; DELETE FROM orders; --'`, "DELETE orders"},
	{"mariadb", `SELECT '\'; DELETE FROM a; --'`, ""},

	// Transactions and savepoints.
	{"pg mariadb sqlite", `/* x */ COMMIT`, "ends"},
	{"pg mariadb sqlite", `begin`, "ends"},
	{"pg mariadb sqlite", `ROLLBACK`, "ends"},
	{"pg", `ABORT AND CHAIN`, "ends"},
	{"pg", `PREPARE TRANSACTION 'x'`, "ends"},
	{"mariadb", `START TRANSACTION WITH CONSISTENT SNAPSHOT`, "ends"},
	{"mariadb", `XA END 'x'`, "ends"},
	{"mariadb", `LOCK TABLES orders WRITE`, "ends"},
	{"mariadb", `SET autocommit = 1`, "denied (schema), ends"},
	{"mariadb", `SET @a = 1, @@session.autocommit = 1`, "denied (schema), ends"},
	{"pg mariadb sqlite", "SAVEPOINT a; SELECT 1", "SAVEPOINT a, denied (schema)"},

	// Settings.
	{"pg", `SET LOCAL statement_timeout = 0`, ""},
	{"pg", `SET app.tenant = '42'`, ""},
	{"pg", `SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`, ""},
	{"pg", `SET CONSTRAINTS ALL IMMEDIATE`, "calls"},
	{"pg", `SET LOCAL "search_path" TO other`, "denied (schema)"},
	{"pg", `SET SCHEMA 'other'`, "denied (schema)"},
	{"pg", `SET ROLE other`, "denied (schema)"},
	{"pg", `SET SESSION AUTHORIZATION other`, "denied (schema)"},
	{"pg", `SET session_replication_role = replica`, "denied (schema)"},
	{"pg", `SET row_security = off`, "denied (schema)"},
	{"pg", `SET standard_conforming_strings = off`, "denied (schema)"},
	{"pg", `RESET ALL`, "denied (schema)"},
	{"mariadb", `SET @x = 1, @y := 2`, ""},
	{"mariadb", `SET @x = (SELECT wipe())`, "calls"},
	{"mariadb", `SET SESSION innodb_lock_wait_timeout = 1`, ""},
	{"mariadb", `SET TRANSACTION ISOLATION LEVEL READ COMMITTED`, ""},
	{"mariadb", `SET sql_mode = 'ANSI_QUOTES'`, "denied (schema)"},
	{"mariadb", `SET @x = 1, @@SESSION.foreign_key_checks = 0`, "denied (schema)"},
	{"mariadb", `SET @@session.max_statement_time = 1`, ""},
	{"mariadb", `SET GLOBAL max_statement_time = 1`, "denied (schema)"},
	{"mariadb", `SET @@global.max_statement_time = 1`, "denied (schema)"},
	{"mariadb", `SET NAMES gbk`, "denied (schema)"},
	{"mariadb", `USE other`, "denied (schema)"},
	{"sqlite", `PRAGMA table_info(orders)`, ""},
	{"sqlite", `PRAGMA main.foreign_keys`, ""},
	{"sqlite", `PRAGMA defer_foreign_keys = 1`, ""},
	{"sqlite", `PRAGMA main.writable_schema = 1`, "denied (schema)"},
	{"sqlite", `PRAGMA foreign_keys(0)`, "denied (schema)"},
	{"sqlite", `ATTACH 'x.db' AS other`, "denied (schema)"},
	{"sqlite", `DETACH other`, "denied (schema)"},

	// The schema.
	{"pg sqlite", `CREATE TEMP TABLE picked AS SELECT * FROM orders`, "CREATE picked"},
	{"mariadb", `CREATE TEMPORARY TABLE IF NOT EXISTS picked ENGINE=MEMORY SELECT * FROM orders`, "CREATE picked"},
	{"mariadb", `CREATE TEMPORARY TABLE picked (id int) ENGINE = MERGE UNION = (orders)`, "CREATE picked, denied (schema)"},
	{"pg mariadb", `CREATE TEMPORARY TABLE orders (id int)`, "CREATE orders"},
	{"pg sqlite", `CREATE TABLE lines (id int, order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE)`, "CREATE lines"},
	{"pg", `CREATE TABLE x AS WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d`, "CREATE x, DELETE orders"},
	{"pg", `CREATE TABLE x AS EXECUTE wipe`, "CREATE x, denied (any)"},
	{"pg", `CREATE TABLE x () INHERITS (orders)`, "CREATE x, denied (schema)"},
	{"pg", `CREATE TABLE x PARTITION OF orders DEFAULT`, "CREATE x, denied (schema)"},
	{"pg sqlite", `CREATE UNIQUE INDEX x ON orders (id)`, "calls"},
	{"pg sqlite", `DROP TABLE IF EXISTS a, shop.b`, "DROP a, DROP shop.b"},
	{"pg", `DROP TABLE logs CASCADE`, "DROP logs, denied (schema)"},
	{"pg", `DROP SCHEMA shop CASCADE`, "denied (schema)"},
	{"pg sqlite", `CREATE VIEW v AS SELECT * FROM orders`, "denied (schema)"},
	{"sqlite", `CREATE TRIGGER t AFTER UPDATE ON logs BEGIN DELETE FROM orders; SELECT CASE 1 WHEN 1 THEN 2 END; END; DELETE FROM lines`,
		"DELETE lines, denied (schema)"},
	{"pg", `CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON orders EXECUTE FUNCTION f()`, "denied (schema)"},
	{"pg", `CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM orders; SELECT 1; END; DELETE FROM lines`,
		"DELETE lines, denied (schema)"},
	{"pg", `CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ DELETE FROM orders $$`, "denied (schema)"},
	{"pg sqlite", `ALTER TABLE orders ADD COLUMN x int`, "denied (schema)"},
	{"mariadb", `ALTER TABLE orders ADD COLUMN x int`, "denied (schema), ends"},
	{"pg", `ALTER TABLE logs ALTER x TYPE int USING wipe()`, "denied (schema)"},
	{"pg", `ALTER TABLE logs DETACH PARTITION orders`, "denied (schema)"},
	{"pg", `ALTER TABLE logs ATTACH PARTITION orders DEFAULT`, "denied (schema)"},
	{"pg", `GRANT UPDATE ON orders TO joe`, "denied (schema)"},
	{"mariadb", `CREATE TABLE x AS SELECT * FROM orders`, "denied (schema), ends"},
	{"mariadb", `DROP TABLE logs`, "denied (schema), ends"},
	{"mariadb", `RENAME TABLE orders TO x`, "denied (schema), ends"},
	{"mariadb", `TRUNCATE TABLE orders`, "TRUNCATE orders, ends"},
	{"mariadb", `ANALYZE TABLE orders PERSISTENT FOR COLUMNS (x) INDEXES (y)`, "denied (schema), ends"},
	{"mariadb", `CREATE TRIGGER t AFTER UPDATE ON logs FOR EACH ROW BEGIN IF 1 THEN DELETE FROM orders; END IF; END`,
		"denied (schema), ends"},
}

func TestWhatTheJudgeMakesOfStatements(t *testing.T) {
	for _, example := range JudgeExamples {
		for name := range strings.FieldsSeq(example.Databases) {
			outcome := judged(judge(example.Statement, dialects[name]))
			if outcome != example.Outcome {
				t.Errorf("%s: %s\n want %s\n have %s", name, example.Statement, example.Outcome, outcome)
			}
		}
	}
}

func TestSavepoints(t *testing.T) {
	for _, c := range []struct {
		databases, statement string
		want                 savepointStep
	}{
		{"pg", `SAVEPOINT "A"`, savepointStep{"SAVEPOINT", "A"}},
		{"mariadb sqlite", `SAVEPOINT "A"`, savepointStep{"SAVEPOINT", "a"}},
		{"pg mariadb sqlite", "\n/* x */ savepoint SP_1;", savepointStep{"SAVEPOINT", "sp_1"}},
		{"pg mariadb sqlite", `RELEASE SAVEPOINT a`, savepointStep{"RELEASE", "a"}},
		{"pg mariadb sqlite", `-- x` + "\n" + `ROLLBACK TO a`, savepointStep{"ROLLBACK", "a"}},
		{"pg mariadb", `ROLLBACK WORK TO SAVEPOINT a`, savepointStep{"ROLLBACK", "a"}},
		{"sqlite", `ROLLBACK TRANSACTION x TO 'a'`, savepointStep{"ROLLBACK", "a"}},
		{"pg sqlite", `RELEASE savepoint`, savepointStep{"RELEASE", "savepoint"}},
	} {
		for name := range strings.FieldsSeq(c.databases) {
			j := judge(c.statement, dialects[name])
			require.Equal(t, c.want, j.savepoint, name+": "+c.statement)
			require.Empty(t, j.denied, name+": "+c.statement)
			require.False(t, j.ends, name+": "+c.statement)
		}
	}
}

func TestNamesAreFoundWhereverTheyStand(t *testing.T) {
	for text, want := range map[string]bool{
		"a Orders b": true, `'x"orders"'`: true, "orders": true, "shop.orders": true, "/*orders*/": true,
		"orders_archive": false, "reorders": false, "order": false, "reorders orders": true, "": false,
	} {
		require.Equal(t, want, mentions(text, "orders"), text)
	}
	require.True(t, mentions("x", `or"ders`), "such a name may be written in several ways")
}

// Outside RunInTx services change their schema, through the same bun.DB.
func TestWhatADeniedStatementMayChange(t *testing.T) {
	for _, c := range []struct {
		databases, statement string
		want                 bool
	}{
		{"pg mariadb sqlite", `ALTER TABLE orders ADD COLUMN x int`, false},
		{"pg mariadb sqlite", `CREATE TABLE orders (id int)`, false},
		{"pg mariadb sqlite", `DROP TABLE IF EXISTS orders CASCADE`, false},
		{"pg", `CREATE TRIGGER t AFTER DELETE ON orders EXECUTE FUNCTION f()`, false},
		{"pg", `DROP SCHEMA shop CASCADE`, false},
		{"pg", `SET search_path = shop`, false},
		{"pg sqlite", `VACUUM`, false},
		{"mariadb", `OPTIMIZE TABLE orders`, false},
		{"mariadb", `/*!40101 SET NAMES utf8mb4 */`, false},
		{"mariadb", `/*!40101 DELETE FROM orders */`, true},
		{"mariadb", `/*!40101 CALL wipe() */`, true},
		{"pg", `DO $$ BEGIN CREATE TYPE kind AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN NULL; END $$`, false},
		{"pg", `DO $$ BEGIN UPDATE logs SET x = (SELECT count(*) FROM orders); END $$`, true},
		{"pg", `DO $$ BEGIN EXECUTE 'DELETE FROM ord' || 'ers'; END $$`, true},
		{"pg", `DO $$ BEGIN DELETE FROM U&"ord\0065rs"; END $$`, true},
		{"pg", `DELETE FROM U&"ord\0065rs"`, true},
		{"pg mariadb", `CALL wipe()`, true},
		{"pg mariadb", `EXECUTE wipe`, true},
		{"pg", `TRUNCATE logs CASCADE`, true},
		{"pg mariadb sqlite", `FROBNICATE logs`, false},
		{"pg mariadb sqlite", `FROBNICATE orders`, true},
		{"mariadb", `LOAD DATA INFILE 'x' INTO TABLE logs`, false},
		{"mariadb", `BEGIN NOT ATOMIC DELETE FROM logs; END`, false},
		{"mariadb", `BEGIN NOT ATOMIC CALL wipe(); END`, true},
		{"sqlite", `ATTACH 'x' AS other`, false},
	} {
		for name := range strings.FieldsSeq(c.databases) {
			require.Equal(t, c.want, judge(c.statement, dialects[name]).mayChange(c.statement, "Orders"), name+": "+c.statement)
		}
	}
}
