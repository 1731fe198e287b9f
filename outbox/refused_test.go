package outbox_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// On a bun.Conn the driver is asked whether the context is over, and pgx says that the connection
// is bad.
func TestABuilderOnAConnectionIsRefusedByName(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		f.insert(&Note{Slug: "a", Text: "kept"})
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		note := &Note{Slug: "a"}
		statements := map[string]func(ctx context.Context) error{
			"insert": func(ctx context.Context) error {
				return exec(conn.NewInsert().Model(&Note{Slug: "b"}).Exec(ctx))
			},
			"insert returning": func(ctx context.Context) error {
				return conn.NewInsert().Model(&Note{Slug: "b"}).Returning("slug").Scan(ctx)
			},
			"insert by conn of the DB's builder": func(ctx context.Context) error {
				return exec(db.NewInsert().Conn(conn).Model(&Note{Slug: "b"}).Exec(ctx))
			},
			"update": func(ctx context.Context) error {
				return exec(conn.NewUpdate().Model(note).WherePK().Exec(ctx))
			},
			"delete": func(ctx context.Context) error {
				return exec(conn.NewDelete().Model(note).WherePK().Exec(ctx))
			},
			"raw query": func(ctx context.Context) error {
				return exec(conn.NewRaw("DELETE FROM notes").Exec(ctx))
			},
			"raw SQL": func(ctx context.Context) error {
				return exec(conn.ExecContext(ctx, "DELETE FROM notes"))
			},
			"raw SQL that is queried": func(ctx context.Context) error {
				rows, err := conn.QueryContext(ctx, "DELETE FROM notes")
				if err != nil {
					return err
				}
				defer rows.Close()
				return rows.Err()
			},
			"raw SQL for a row": func(ctx context.Context) error {
				var text string
				return conn.QueryRowContext(ctx, "DELETE FROM notes").Scan(&text)
			},
			"truncate": func(ctx context.Context) error {
				return exec(conn.NewTruncateTable().Model(note).Exec(ctx))
			},
		}
		for name, statement := range statements {
			var refused *outbox.RefusedError
			require.ErrorAs(t, statement(t.Context()), &refused, name)
			require.Equal(t, "notes", strings.ToLower(refused.Table), name)
			var text string
			row := conn.QueryRowContext(t.Context(), "SELECT text FROM notes")
			require.NoError(t, row.Scan(&text), "the connection stays usable after "+name)
			require.Equal(t, "kept", text)
		}
	})
}

// A query that was refused keeps that, wherever it is run again, and says so.
func TestARefusedQueryIsBuiltAnew(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		newFixture(t, db)
		query := db.NewInsert().Model(&Note{Slug: "a"})
		var refused *outbox.RefusedError
		require.ErrorAs(t, exec(query.Exec(t.Context())), &refused)
		err := exec(query.Exec(outbox.Explicit(t.Context())))
		require.ErrorAs(t, err, &refused)
		require.ErrorContains(t, err, "build it anew")
	})
}

// Raw SQL on a bun.Conn of pgx's own driver goes past everything that could return the reason: it
// does not run, and the log has it. Package database has a driver around it that returns the
// reason.
func TestRawSQLOnAConnectionOfAnotherDriverDoesNotRun(t *testing.T) { //nolint:paralleltest // it replaces the default logger
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)

	config, err := pgx.ParseConfig(dbtest.PostgresURL(t))
	require.NoError(t, err)
	db := bun.NewDB(stdlib.OpenDB(*config), pgdialect.New())
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	f := newFixture(t, db)
	f.insert(&Note{Slug: "a"})
	conn, err := f.db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.Error(t, exec(conn.ExecContext(t.Context(), "DELETE FROM notes")))
	require.Contains(t, log.String(), "DELETE on tracked table")
	n, err := f.db.NewSelect().Model((*Note)(nil)).Count(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}
