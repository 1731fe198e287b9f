package relay

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store"
)

// idleRelay owns all lanes and does nothing by itself.
func idleRelay(t *testing.T, db *bun.DB, batchSize int) *Relay {
	t.Helper()
	r, err := New(db, struct{ message.Publisher }{}, Config{BatchSize: batchSize, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = r.store.Migrate(t.Context(), store.Outbox)
	require.NoError(t, err)
	require.NoError(t, r.balance(t.Context()))
	return r
}

func appendMessages(t *testing.T, r *Relay, keys, size int) {
	t.Helper()
	for key := range keys {
		require.NoError(t, r.store.Append(t.Context(), r.store.DB(), []store.Message{{
			Model: "order", Key: fmt.Sprint(key), Signal: "SAVE", PK: json.RawMessage("1"), Updated: time.Now(),
			Data: json.RawMessage(`{"s":"` + strings.Repeat("x", size) + `"}`),
		}}))
	}
}

// roundOfClaims claims until there is no more at once and returns how often each key came.
func roundOfClaims(t *testing.T, r *Relay) (claims int, keys map[string]int) {
	t.Helper()
	keys = map[string]int{}
	for more := true; more; claims++ {
		var claimed []store.Claimed
		var err error
		claimed, more, err = r.claim(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, len(claimed), r.cfg.BatchSize)
		require.NoError(t, r.store.Finish(t.Context(), r.cfg.ID, r.lease.lanes, store.Outcome{Sent: claimed}))
		for _, m := range claimed {
			keys[m.Key]++
		}
	}
	return claims, keys
}

func TestEveryLaneHasItsTurnWhenABatchIsSmallerThanTheLanes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := idleRelay(t, db, 10)
		claims, keys := roundOfClaims(t, r)
		require.Equal(t, 7, claims, "an empty outbox ends after one round")
		require.Empty(t, keys)

		appendMessages(t, r, 100, 10)
		_, keys = roundOfClaims(t, r)
		require.Len(t, keys, 100)
		claims, _ = roundOfClaims(t, r)
		require.Equal(t, 7, claims)
	})
}

func TestEveryLaneHasItsTurnWhenMessagesAreLarge(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := idleRelay(t, db, 1000)
		appendMessages(t, r, 7, 3<<18)
		claims, keys := roundOfClaims(t, r)
		require.Len(t, keys, 7)
		require.GreaterOrEqual(t, claims, 2, "no claim brings more than some megabytes")
		_, _, err := r.claim(t.Context())
		require.NoError(t, err)
	})
}

func TestAClaimWithoutLanesIsEmpty(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := idleRelay(t, db, 10)
		appendMessages(t, r, 1, 10)
		r.lease.lanes = nil
		claimed, more, err := r.claim(t.Context())
		require.NoError(t, err)
		require.False(t, more)
		require.Empty(t, claimed)
	})
}
