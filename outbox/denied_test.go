package outbox_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// only runs a test on the databases whose names stand in a text: pg, mariadb, sqlite.
func (f fixture) only(databases, statement string) bool {
	name := map[dialect.Name]string{dialect.PG: "pg", dialect.MySQL: "mariadb", dialect.SQLite: "sqlite"}
	return strings.Contains(databases, name[f.db.Dialect().Name()]) && statement != ""
}

type rawStatement struct{ databases, text string }

var disguised = []rawStatement{
	{"pg", `DO $$ BEGIN IF TRUE THEN DELETE FROM orders; END IF; END $$`},
	{"pg", `/* x */ DO 'BEGIN DELETE FROM orders; END'`},
	{"pg", `DO 'BEGIN EXECUTE ''DELETE FROM ord'' || ''ers''; END'`},
	{"pg", `PREPARE wiping AS DELETE FROM orders`},
	{"pg", `EXECUTE wiping`},
	{"pg mariadb", `CALL wiping()`},
	{"pg", `CREATE TABLE x AS WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d`},
	{"pg", `DELETE FROM U&"ord\0065rs"`},
	{"pg", `/* /* */ */ DELETE /* /* */ */ FROM orders`},
	{"pg", `TRUNCATE logs CASCADE`},
	{"pg", `EXPLAIN ANALYZE DELETE FROM orders`},
	{"mariadb", `UPDATE logs JOIN orders AS y ON TRUE SET y.status = 'x'`},
	{"mariadb", `DELETE o FROM logs AS l JOIN orders AS o`},
	{"mariadb", `LOAD DATA INFILE '/nowhere/x' INTO TABLE orders`},
	{"mariadb", `/*! DELETE FROM orders */`},
	{"mariadb", `/*M! DELETE FROM orders */`},
	{"mariadb", `EXECUTE IMMEDIATE 'DELETE FROM orders'`},
	{"mariadb", `BEGIN NOT ATOMIC DELETE FROM orders; END`},
	{"sqlite", `DELETE FROM [orders]`},
	{"sqlite", `DELETE FROM 'orders'`},
	{"pg sqlite", `SELECT 1; DELETE FROM orders`},
}

// What is not certain to leave tracked tables alone does not run, neither in RunInTx nor outside.
func TestDisguisedWritesAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Order{Number: "a"})
		f.take()
		for _, c := range disguised {
			if !f.only(c.databases, c.text) {
				continue
			}
			var refused *outbox.RefusedError
			_, err := f.db.ExecContext(f.Context(), c.text)
			require.ErrorAs(f, err, &refused, "outside: "+c.text)
			err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.ExecContext(ctx, c.text)
				require.ErrorAs(f, err, &refused, c.text)
				return nil
			})
			require.ErrorAs(f, err, &refused, "the transaction commits after "+c.text)
			require.NotContains(f, err.Error(), "table  ", c.text)
		}
		rows, err := f.db.NewSelect().Model((*Order)(nil)).Count(f.Context())
		require.NoError(f, err)
		require.EqualValues(f, 1, rows)
		require.Empty(f, f.take())
	})
}

// A transaction may not be ended behind the box's back, nor may the name of its table come to mean
// another one.
func TestStatementsThatUndermineTheTransactionAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		for _, c := range []rawStatement{
			{"pg mariadb sqlite", `COMMIT`},
			{"pg mariadb sqlite", "/* x */\n rollback"},
			{"pg", `PREPARE TRANSACTION 'x'`},
			{"pg sqlite", `SELECT 1; END`},
			{"mariadb", `CREATE TABLE x (id int)`},
			{"mariadb", `TRUNCATE logs`},
			{"mariadb", `SET autocommit = 1`},
			{"pg mariadb", `CREATE TEMPORARY TABLE orders (id int)`},
			{"sqlite", `CREATE TEMP TABLE orders (id int)`},
			{"pg", `SET LOCAL search_path = x`},
			{"pg", `SELECT set_config('search_path', 'x', true)`},
			{"pg", `SET session_replication_role = replica`},
			{"mariadb", `USE x`},
			{"sqlite", `PRAGMA writable_schema = 1`},
		} {
			if !f.only(c.databases, c.text) {
				continue
			}
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewInsert().Model(&Order{Number: c.text}).Exec(ctx)
				require.NoError(f, err)
				_, err = tx.ExecContext(ctx, c.text)
				return err
			})
			var refused *outbox.RefusedError
			require.ErrorAs(f, err, &refused, c.text)
		}
		rows, err := f.db.NewSelect().Model((*Order)(nil)).Count(f.Context())
		require.NoError(f, err)
		require.Zero(f, rows)
		require.Empty(f, f.take())
	})
}

// What services do beside writing rows is none of the box's business.
func TestOtherStatementsRun(t *testing.T) {
	each(t, func(f fixture) {
		for _, c := range []rawStatement{
			{"pg mariadb sqlite", `ALTER TABLE orders ADD COLUMN extra int`},
			{"pg mariadb sqlite", `CREATE INDEX orders_extra ON orders (extra)`},
			{"pg mariadb sqlite", `DROP TABLE IF EXISTS absent`},
			{"pg", `DO $$ BEGIN CREATE TYPE kind AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN NULL; END $$`},
			{"pg", `CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; COMMENT ON TABLE orders IS 'x'`},
			{"mariadb", `/*!40101 SET NAMES utf8mb4 */`},
			{"sqlite", `CREATE TRIGGER t AFTER INSERT ON logs BEGIN SELECT 1; END`},
			{"pg sqlite", `VACUUM`},
		} {
			if f.only(c.databases, c.text) {
				_, err := f.db.ExecContext(f.Context(), c.text)
				require.NoError(f, err, c.text)
			}
		}
		for _, c := range []rawStatement{
			{"pg mariadb sqlite", `SELECT count(*) FROM orders`},
			{"pg mariadb sqlite", `SAVEPOINT a`},
			{"pg mariadb sqlite", `ROLLBACK TO a`},
			{"pg mariadb sqlite", `RELEASE SAVEPOINT a`},
			{"pg", `SET LOCAL lock_timeout = '1s'`},
			{"pg", `SELECT set_config('app.tenant', '42', true)`},
			{"pg sqlite", `CREATE TEMP TABLE picked AS SELECT id FROM orders`},
			{"mariadb", `CREATE TEMPORARY TABLE picked AS SELECT id FROM orders`},
			{"pg mariadb sqlite", `INSERT INTO logs (text) VALUES ('DELETE FROM orders')`},
			{"pg", `LOCK TABLE logs; SELECT pg_advisory_xact_lock(1)`},
		} {
			if f.only(c.databases, c.text) {
				require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
					if strings.Contains(c.text, " a") && !strings.Contains(c.text, "SELECT") {
						_, err := tx.ExecContext(ctx, "SAVEPOINT a")
						require.NoError(f, err)
					}
					_, err := tx.ExecContext(ctx, c.text)
					return err
				}), c.text)
			}
		}
		require.Empty(f, f.take())
	})
}

// Under Explicit the caller answers for what cannot be read; that the transaction ends is still
// refused.
func TestExplicitAllowsWhatCannotBeRead(t *testing.T) {
	each(t, func(f fixture) {
		if !f.only("pg", "DO") {
			return
		}
		order := &Order{Number: "a"}
		f.insert(order)
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.ExecContext(outbox.Explicit(ctx), `DO $$ BEGIN EXECUTE 'DELETE FROM ' || 'orders'; END $$`)
			require.NoError(f, err)
			return f.box.Deleted(ctx, tx, order)
		}))
		require.Equal(f, []string{"order 1 1 DELETE"}, summary(f.take()))
		require.Error(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.ExecContext(outbox.Explicit(ctx), `COMMIT`)
			return err
		}))
	})
}
