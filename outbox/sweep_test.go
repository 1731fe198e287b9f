package outbox_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// What a transaction says of itself on PostgreSQL travels with its rows, also when they are swept:
// of several transactions what the newest one said. A transaction that says nothing has nothing.
func TestASweepKeepsWhatTransactionsSaid(t *testing.T) {
	eachBare(t, func(f fixture) {
		if f.db.Dialect().Name() != dialect.PG {
			return // which has settings of a transaction
		}
		said := func(id, correlation, meta string) {
			f.Helper()
			f.raw(`BEGIN; SET LOCAL cqrsync.correlation_id = '` + correlation + `'; SET LOCAL cqrsync.meta = '` + meta + `';
				SET LOCAL cqrsync.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
				INSERT INTO items (id, name) VALUES (` + id + `, 'a') ON CONFLICT (id) DO UPDATE SET name = 'b'; COMMIT`)
		}
		said("1", "c-1", `{"user": 7}`)
		said("2", "c-2", `{"user": 8}`)
		said("2", "c-3", `{"user": 9}`)
		said("3", "c-4", `{}`)
		f.raw("UPDATE items SET name = 'c' WHERE id = 3")
		ctx := outbox.WithCorrelationID(outbox.WithMeta(f.Context(), map[string]any{"sweeper": true}), "of the sweep")
		_, err := f.box.Sweep(ctx)
		require.NoError(f, err)
		type saying struct{ Key, CorrelationID, Meta, Headers string }
		var got []saying
		require.NoError(f, f.db.NewRaw(`SELECT key, correlation_id, meta::text, coalesce(headers ->> 'traceparent', '') AS headers
			FROM outbox_messages ORDER BY key`).Scan(f.Context(), &got))
		trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		require.Equal(f, []saying{
			{"1", "c-1", `{"user": 7}`, trace}, {"2", "c-3", `{"user": 9}`, trace},
			{"3", "of the sweep", `{"sweeper":true}`, ""},
		}, got)
	})
}

// Notes wait where nobody sweeps, and Check says so.
func TestCheckTellsOfNotesThatNobodySweeps(t *testing.T) {
	eachBare(t, func(f fixture) {
		unswept := func() []*outbox.Finding {
			f.Helper()
			found, err := f.box.Findings(f.Context())
			require.NoError(f, err)
			return slices.DeleteFunc(found, func(f *outbox.Finding) bool { return f.Kind != outbox.FoundUnswept })
		}
		f.raw("INSERT INTO items (id, name) VALUES (1, 'a')")
		require.Empty(f, unswept())
		f.raw(map[dialect.Name]string{
			dialect.PG:     "UPDATE outbox_dirty SET noted_at = noted_at - interval '2 minutes'",
			dialect.MySQL:  "UPDATE outbox_dirty SET noted_at = noted_at - INTERVAL 2 MINUTE",
			dialect.SQLite: "UPDATE outbox_dirty SET noted_at = noted_at - 120",
		}[f.db.Dialect().Name()])
		found := unswept()
		require.Len(f, found, 1)
		require.Equal(f, outbox.FoundUnswept, found[0].Kind)
		require.Equal(f, "item", found[0].Model)
		require.Contains(f, found[0].Error(), "has waited for 2m")
		require.False(f, found[0].IsWrong())
		require.NoError(f, f.box.Check(f.Context()))
		_, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		require.Empty(f, unswept())
	})
}

// Check says which of the two captures each model has.
func TestCheckSaysWhoCapturesEachModel(t *testing.T) {
	eachBare(t, func(f fixture) {
		var log bytes.Buffer
		box, err := outbox.New(f.db, outbox.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(f, err)
		require.NoError(f, outbox.Register[Item](box, "item", outbox.Triggers()))
		require.NoError(f, outbox.Register[Note](box, "note"))
		require.NoError(f, outbox.Register[File](box, "file"))
		require.NoError(f, box.Check(f.Context()))
		require.Contains(f, log.String(), `triggers=item bun="file, note"`)
	})
}

// A RunInTx after a sweep says what its own context says.
func TestASessionSaysWhatItsContextSays(t *testing.T) {
	eachBare(t, func(f fixture) {
		ctx := outbox.WithCorrelationID(f.Context(), "mine")
		require.NoError(f, f.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("INSERT INTO items (id, name) VALUES (1, 'a')").Exec(ctx))
		}))
		var correlation string
		require.NoError(f, f.db.NewRaw("SELECT correlation_id FROM outbox_messages").Scan(f.Context(), &correlation))
		require.Equal(f, "mine", correlation)
	})
}
