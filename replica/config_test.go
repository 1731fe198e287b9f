package replica_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

func TestNewReportsEveryConfigurationErrorAtOnce(t *testing.T) {
	_, err := replica.New(nil, replica.Config{
		Workers: -1, Batch: -2, Window: 70000, MaxPayload: -3, HandlerTimeout: -4,
		Retry: replica.RetryPolicy{Attempts: -5, Min: -6, Max: -7},
	})
	for _, want := range []string{
		`Queue is "": name`, "Workers is -1: want", "Batch is -2: want", "Window is 70000: want 1 to 65535",
		"MaxPayload is -3: want", "Retry.Attempts is -5: want", "Retry.Min is -6ns: want", "Retry.Max is -7ns: want",
		"HandlerTimeout is -4ns: want", "db is nil and DeadLetters too",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{
		Queue: "q", Schema: "no schema", TablePrefix: "a-b", Retry: replica.RetryPolicy{Min: time.Hour},
	})
	for _, want := range []string{
		`schema "no schema"`, `prefix "a-b"`, "Retry.Max is 5m0s: want at least Retry.Min (1h0m0s)",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestRegistrationErrorsSayWhatToDo(t *testing.T) {
	rep, err := replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Queue: "q"})
	require.NoError(t, err)
	type Keyless struct{ Name string }
	type BadRelation struct {
		ID    int64     `bun:",pk"`
		Lines []Keyless `bun:"rel:has-many,join:id=nowhere_id"`
	}
	type BadColumn struct {
		ID   int64 `bun:",pk"`
		Done chan bool
	}
	ignore := func(context.Context, bun.Tx, replica.Event[Note]) error { return nil }
	require.NoError(t, replica.Register[Note](rep, "note"))

	for want, err := range map[string]error{
		`"note" as replica_test.Note: the model is registered twice`: replica.Register[Note](rep, "note"),
		"registered twice":              replica.Handle(rep, "note", ignore),
		`"a.b": use letters`:            replica.Register[Note](rep, "a.b"),
		"want a struct, not a ptr":      replica.Register[*Note](rep, "pointer"),
		"want a struct, not a map":      replica.Register[map[string]any](rep, "map"),
		"no primary key":                replica.Register[Keyless](rep, "keyless"),
		"bun cannot use the type: ":     replica.Register[BadRelation](rep, "relation"),
		`column "done": bun cannot`:     replica.Register[BadColumn](rep, "column"),
		"the handler is nil":            replica.Handle[Note](rep, "nil", nil),
		`Rename("x", "no"): the struct`: replica.Register[Note](rep, "rename", replica.Rename("x", "no")),
		"make one with replica.New":     replica.Register[Note](nil, "note"),
	} {
		require.ErrorContains(t, err, want)
		if want != "make one with replica.New" {
			require.ErrorIs(t, rep.AddHandlers(newRouter(t), newBroker(t)), err, "remembered")
		}
	}
}

func TestRegisteringTooLateIsRefused(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	_ = f.Handler()
	require.ErrorContains(t, replica.Register[Account](f.Replica, "account"), "register before Run")
}

func TestSchemaAndPrefixAreUsed(t *testing.T) {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{Queue: queue, TablePrefix: "cq_", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	f := &fixture{rep, t, db}
	mirror[Note](f, "note")
	poison := save(2, 0, "a")
	poison.Model = "unknown"
	f.deliver(save(1, 0, "a"), poison)
	for _, table := range []string{"cq_replica_revisions", "cq_replica_dead_letters"} {
		n, err := db.NewSelect().Table(table).Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
}
