package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// openPostgres opens an empty schema of the test database; drop removes it.
func openPostgres(ctx context.Context) (db *bun.DB, drop func() error, err error) {
	_, db, drop, err = openSchema(ctx)
	return db, drop, err
}

// openSchema is openPostgres, with the schema's URL.
func openSchema(ctx context.Context) (at string, db *bun.DB, drop func() error, err error) {
	address := os.Getenv(dbtest.Variable(dbtest.Postgres))
	if address == "" {
		return "", nil, nil, fmt.Errorf("set %s to the URL of a PostgreSQL database",
			dbtest.Variable(dbtest.Postgres))
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, nil, fmt.Errorf("%s is not a URL", dbtest.Variable(dbtest.Postgres))
	}
	admin, err := database.Open(address)
	if err != nil {
		return "", nil, nil, err
	}
	schema := fmt.Sprintf("cqrsync_bench_%d_%d", os.Getpid(), time.Now().UnixNano())
	if _, err := admin.ExecContext(ctx, "CREATE SCHEMA "+schema); err != nil {
		return "", nil, nil, errors.Join(
			fmt.Errorf("PostgreSQL at %s: %w", database.Redact(address), err), admin.Close())
	}
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	db, err = database.Open(u.String())
	drop = func() error {
		_, dropErr := admin.ExecContext(context.WithoutCancel(ctx), "DROP SCHEMA "+schema+" CASCADE")
		return errors.Join(dropErr, db.Close(), admin.Close())
	}
	return u.String(), db, drop, err
}

// openSQLite opens an empty file; drop removes it.
func openSQLite(context.Context) (db *bun.DB, drop func() error, err error) {
	dir, err := os.MkdirTemp("", "cqrsync-bench")
	if err != nil {
		return nil, nil, err
	}
	db, err = database.Open("sqlite://" + filepath.Join(dir, "bench.db"))
	return db, func() error { return errors.Join(db.Close(), os.RemoveAll(dir)) }, err
}
