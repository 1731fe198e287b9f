package applied_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/catalog"
)

// settleRead reads keys and writes what next makes of each.
func (s *suite) settleRead(ctx context.Context, keys []applied.Key, between func(), next func(*applied.Applied)) error {
	return s.DB().RunInTx(ctx, s.BatchOptions(), func(ctx context.Context, tx bun.Tx) error {
		read, err := s.ReadApplied(ctx, tx, keys)
		if err != nil {
			return err
		}
		between()
		rows := make([]applied.Applied, 0, len(keys))
		for _, k := range keys {
			row := read[k]
			next(&row)
			rows = append(rows, row)
		}
		return s.SettleApplied(ctx, tx, rows)
	})
}

func settlesWhatWasRead(t *testing.T, s *suite) {
	keys := []applied.Key{{Model: "b", Key: "1"}, {Model: "a", Key: "it's"}, {Model: "a", Key: "10"}}
	at := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	raise := func(a *applied.Applied) { a.Revision++; a.Updated = at }
	nothing := func() {}
	for revision := range int64(3) {
		require.NoError(t, s.settleRead(t.Context(), keys, nothing, raise))
		for _, row := range s.read(t, keys...) {
			require.Equal(t, applied.Applied{Key: row.Key, Revision: revision, Updated: at}, row)
		}
	}
	require.NoError(t, s.settleRead(t.Context(), keys[:2], nothing, func(a *applied.Applied) { a.Revision, a.Deleted = 9, true }))
	require.True(t, s.read(t, keys[0])[keys[0]].Deleted)

	if s.DB().Dialect().Name() != dialect.PG {
		return // elsewhere the reader has locked the keys, or the whole database
	}
	for _, key := range []applied.Key{keys[0], {Model: "a", Key: "new"}} {
		faster := func() { require.NoError(t, s.settleRead(t.Context(), []applied.Key{key}, nothing, raise)) }
		err := s.settleRead(t.Context(), []applied.Key{keys[2], key}, faster, func(a *applied.Applied) { a.Revision = 100 })
		require.ErrorIs(t, err, applied.ErrOvertaken)
		require.EqualValues(t, 2, s.read(t, keys[2])[keys[2]].Revision)
	}
}

func forgetsPlaceholders(t *testing.T, s *suite) {
	known, unknown := applied.Key{Model: "a", Key: "1"}, applied.Key{Model: "a", Key: "2"}
	require.NoError(t, s.SettleApplied(t.Context(), s.DB(), []applied.Applied{{Key: known, Revision: 3}}))
	_, err := s.LockApplied(t.Context(), s.DB(), []applied.Key{known, unknown})
	require.NoError(t, err)
	require.NoError(t, s.ForgetLocked(t.Context(), s.DB(), []applied.Key{known, unknown}))
	n, err := s.DB().NewSelect().Table("replica_revisions").Count(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

func waiting(key string, revision int64, in time.Duration) applied.Waiting {
	return applied.Waiting{
		Applied: applied.Applied{Key: applied.Key{Model: "order", Key: key}, Revision: revision},
		Body:    []byte(`{"a": "?'\\ü"}`), Metadata: map[string]string{"cqrs_key": key}, Attempts: 2, Error: "no \x00 such", In: in,
	}
}

func claimsWaiting(t *testing.T, s *suite) {
	ctx := t.Context()
	_, some, err := s.NextWaiting(ctx)
	require.NoError(t, err)
	require.False(t, some)

	at := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	due := waiting("it's", 3, 0)
	due.Deleted, due.Updated, due.Parent = true, at, applied.Key{Model: "shop", Key: "7"}
	require.NoError(t, s.AddWaiting(ctx, s.DB(), []applied.Waiting{due, waiting("2", 0, time.Hour)}))
	in, some, err := s.NextWaiting(ctx)
	require.NoError(t, err)
	require.True(t, some)
	require.Zero(t, in)

	claimed, err := s.ClaimWaiting(ctx, 10, time.Hour)
	require.NoError(t, err)
	due.Error, due.In = "no \uFFFD such", 0
	require.NotZero(t, claimed[0].Since)
	due.Since = claimed[0].Since
	require.Equal(t, []applied.Waiting{due}, claimed)
	claimed, err = s.ClaimWaiting(ctx, 10, time.Hour)
	require.NoError(t, err)
	require.Empty(t, claimed, "nobody else gets it")
	in, some, err = s.NextWaiting(ctx)
	require.NoError(t, err)
	require.True(t, some)
	require.Greater(t, in, 30*time.Minute)

	counts, err := s.CountWaiting(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"order": 2}, counts)
	require.NoError(t, s.RemoveWaiting(ctx, s.DB(), []applied.Applied{due.Applied, waiting("2", 0, 0).Applied}))
	counts, err = s.CountWaiting(ctx)
	require.NoError(t, err)
	require.Empty(t, counts)
	// Who tries it again and fails takes it out and puts it back: it waits since then all the same.
	require.NoError(t, s.AddWaiting(ctx, s.DB(), []applied.Waiting{due}))
	claimed, err = s.ClaimWaiting(ctx, 10, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []applied.Waiting{due}, claimed)
}

func replacesWaiting(t *testing.T, s *suite) {
	ctx := t.Context()
	require.NoError(t, s.AddWaiting(ctx, s.DB(), []applied.Waiting{waiting("1", 3, 0)}))
	require.NoError(t, s.AddWaiting(ctx, s.DB(), []applied.Waiting{waiting("1", 4, 0)}))
	key := applied.Key{Model: "order", Key: "1"}
	found, err := s.WaitingFor(ctx, s.DB(), []applied.Key{key, {Model: "order", Key: "2"}})
	require.NoError(t, err)
	require.Equal(t, map[applied.Key]applied.Applied{key: {Key: key, Revision: 4}}, found)
	require.NoError(t, s.RemoveWaiting(ctx, s.DB(), []applied.Applied{{Key: key, Revision: 3}}))
	found, err = s.WaitingFor(ctx, s.DB(), []applied.Key{key})
	require.NoError(t, err)
	require.Len(t, found, 1, "the one that replaced it stays")
}

func releasesWaiting(t *testing.T, s *suite) {
	ctx := t.Context()
	parent := applied.Key{Model: "shop", Key: "7"}
	child, other := waiting("1", 3, time.Hour), waiting("2", 3, time.Hour)
	child.Parent, other.Parent = parent, applied.Key{Model: "shop", Key: "8"}
	require.NoError(t, s.AddWaiting(ctx, s.DB(), []applied.Waiting{child, other}))
	n, err := s.ReleaseWaiting(ctx, []applied.Key{parent, {Model: "shop", Key: "9"}})
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	claimed, err := s.ClaimWaiting(ctx, 10, time.Hour)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.Equal(t, "1", claimed[0].Key.Key)
}

func collectsTombstones(t *testing.T, s *suite) {
	ctx := t.Context()
	row := func(key string, deleted bool) applied.Applied {
		return applied.Applied{Key: applied.Key{Model: "order", Key: key}, Revision: 1, Deleted: deleted}
	}
	require.NoError(t, s.SettleApplied(ctx, s.DB(), []applied.Applied{row("1", true), row("2", true), row("3", true), row("4", false)}))
	require.NoError(t, s.SettleApplied(ctx, s.DB(), []applied.Applied{row("3", false)}))
	n, err := s.CollectTombstones(ctx, time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, n)
	for _, want := range []int64{1, 1, 0} {
		n, err = s.CollectTombstones(ctx, -time.Second, 1)
		require.NoError(t, err)
		require.Equal(t, want, n, "one at a time, and no live row")
	}
}

func tellsRevisions(t *testing.T, s *suite) {
	ctx := t.Context()
	at := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	key := applied.Key{Model: "order", Key: "1"}
	a, err := s.AppliedRevision(ctx, key)
	require.NoError(t, err)
	require.Equal(t, applied.Applied{Key: key, Revision: applied.NeverApplied}, a)
	rows := []applied.Applied{
		{Key: key, Revision: 3, Updated: at},
		{Key: applied.Key{Model: "order", Key: "2"}, Updated: at.Add(-time.Hour)},
		{Key: applied.Key{Model: "note", Key: "2"}},
	}
	require.NoError(t, s.SettleApplied(ctx, s.DB(), rows))
	a, err = s.AppliedRevision(ctx, key)
	require.NoError(t, err)
	require.Equal(t, rows[0], a)
	newest, err := s.NewestApplied(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]time.Time{"order": at}, newest)
}

func knowsTables(t *testing.T, s *suite) {
	ctx := t.Context()
	exec := func(statement string) {
		_, err := s.DB().ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	exec("CREATE TABLE shops (id bigint PRIMARY KEY, name varchar(20) UNIQUE)")
	exec("CREATE TABLE orders (id bigint PRIMARY KEY, shop_id bigint, total bigint NOT NULL, note varchar(20) NOT NULL DEFAULT 'x', " +
		"FOREIGN KEY (shop_id) REFERENCES shops (id))")
	quoted := func(name string) string {
		return string(s.DB().QueryGen().AppendIdent(nil, name))
	}
	shape, err := catalog.New(s.Database).TableShape(ctx, s.DB(), quoted("orders"), "orders")
	require.NoError(t, err)
	require.Equal(t, "orders", shape.Name)
	require.Subset(t, shape.Required(), []string{"total"})
	require.NotContains(t, shape.Required(), "note")
	require.NotContains(t, shape.Required(), "shop_id")
	require.Len(t, shape.References, 1)
	ref := shape.References[0]
	require.Equal(t, []string{"shop_id", "shops", "id"}, []string{ref.Column, ref.Table, ref.Target})
	require.Len(t, shape.Unique, 1)
	shape, err = catalog.New(s.Database).TableShape(ctx, s.DB(), quoted("shops"), "shops")
	require.NoError(t, err)
	require.Empty(t, shape.References)
	require.Len(t, shape.Unique, 2)
	_, err = catalog.New(s.Database).TableShape(ctx, s.DB(), quoted("nothing"), "nothing")
	require.NoError(t, err, "a missing table is nothing to fail about here")
}
