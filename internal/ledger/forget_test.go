package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

func forgetsDeletedKeys(t *testing.T, s suite) {
	write := func(keys ...string) map[db.Key]ledger.Revision {
		t.Helper()
		var changes []ledger.Change
		for _, key := range keys {
			changes = append(changes, ledger.Change{Key: db.Key{Model: "order", Key: key}})
		}
		var revisions map[db.Key]ledger.Revision
		require.NoError(t, s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) (err error) {
			revisions, err = s.Lock(ctx, tx, changes)
			return err
		}))
		return revisions
	}
	var many []string
	for i := range 2_500 { // several transactions
		many = append(many, fmt.Sprint("k", i))
	}
	write(append(many, "live", "again")...)
	write(append(many, "again")...)
	_, err := s.DB().ExecContext(t.Context(), "UPDATE ? SET deleted = (revision = 1)", s.Table("outbox_revisions"))
	require.NoError(t, err)
	write("again")
	require.NoError(t, s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		return s.Settle(ctx, tx, ledger.Settlement{Restored: []db.Key{{Model: "order", Key: "again"}}})
	}))

	n, err := s.ForgetDeleted(t.Context(), "order", time.Hour)
	require.NoError(t, err)
	require.Zero(t, n, "they were deleted a moment ago")
	n, err = s.ForgetDeleted(t.Context(), "bill", 0)
	require.NoError(t, err)
	require.Zero(t, n, "another model")

	m := outgoing.Message{
		Model: "order", Key: "k1", Signal: "DELETE", PK: json.RawMessage("1"), Data: json.RawMessage("{}"), Updated: time.Now(),
	}
	require.NoError(t, master.New(s.Database).Append(t.Context(), s.DB(), []outgoing.Message{m}, nil))
	_, err = s.ForgetDeleted(t.Context(), "order", 0)
	require.ErrorIs(t, err, ledger.ErrUnsent)
	_, err = s.DB().ExecContext(t.Context(), "DELETE FROM ?", s.Table("outbox_messages"))
	require.NoError(t, err)

	n, err = s.ForgetDeleted(t.Context(), "order", 0)
	require.NoError(t, err)
	require.EqualValues(t, len(many), n)
	key := func(key string) db.Key { return db.Key{Model: "order", Key: key} }
	revisions := write("k1", "live", "again")
	require.Zero(t, revisions[key("k1")].Revision, "it begins again")
	require.EqualValues(t, 1, revisions[key("live")].Revision)
	require.EqualValues(t, 3, revisions[key("again")].Revision)
}
