package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// A tool that makes a table anew takes its triggers along. Whoever runs the relay hears of it, and
// once more when they are back.
func TestRunSaysWhenTriggersAreGone(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			url := newURL(t)
			config := filepath.Join(t.TempDir(), "cqrsync.yaml")
			require.NoError(t, os.WriteFile(config, []byte("models: {apple: {table: apples}}"), 0o600))
			master := dbtest.Open(t, url)
			exec := func(query string) {
				_, err := master.DB.ExecContext(t.Context(), query)
				require.NoError(t, err)
			}
			const table = "CREATE TABLE apples (id bigint PRIMARY KEY, status varchar(20))"
			exec(table)
			require.Zero(t, invoke(t.Context(), "migrate", "--db", url).code)
			install := func() {
				r := invoke(t.Context(), "capture", "install", "--db", url, "--config", config)
				require.Zero(t, r.code, r.stderr)
			}
			install()

			var log output
			o := &options{db: url, config: config, poll: 10 * time.Millisecond, watch: 10 * time.Millisecond}
			defer func() { require.NoError(t, o.close()) }()
			beside, err := o.sweep(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { beside(ctx); close(ended) }()
			defer func() { stop(); <-ended }()

			exec("INSERT INTO apples VALUES (1, 'a')")
			exec("DROP TABLE apples")
			exec(table)
			log.wait(t, "a table is not captured as the file says")
			install()
			log.wait(t, "all tables are captured again")
		})
	}
}
