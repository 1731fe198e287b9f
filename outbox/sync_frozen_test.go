package outbox_test

import (
	"context"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// onServers runs a test on the databases that lock rows.
func onServers(t *testing.T, test func(f fixture, rawURL string)) {
	t.Helper()
	for name, newURL := range dbtest.Kinds() {
		if name == "sqlite" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rawURL := newURL(t)
			f := newFixture(t, dbtest.Open(t, rawURL))
			for id := int64(1); id <= 3; id++ {
				f.insert(&Seat{Row: id, Place: "a", Guest: "b"})
			}
			test(f, rawURL)
		})
	}
}

var threeSeats = []json.RawMessage{json.RawMessage(`[1,"a"]`), json.RawMessage(`[2,"a"]`), json.RawMessage(`[3,"a"]`)}

func (f fixture) writeSeat(row int64) time.Duration {
	f.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	require.NoError(f, f.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return updateSeat(ctx, tx, row)
	}))
	return time.Since(began)
}

func updateSeat(ctx context.Context, tx bun.Tx, row int64) error {
	_, err := tx.NewUpdate().Model(&Seat{Row: row, Place: "a", Guest: "c"}).WherePK().Exec(ctx)
	return err
}

// A Sync that is stopped holds up nobody for longer than a lease.
func TestAFrozenSyncStopsNobodyElse(t *testing.T) {
	for _, text := range []string{"resent", "COMMIT"} {
		t.Run(text, func(t *testing.T) {
			onServers(t, func(f fixture, rawURL string) {
				proxy, proxied := dbtest.NewProxy(t, rawURL)
				db := dbtest.Open(t, proxied)
				box, err := outbox.New(db, outbox.Config{})
				require.NoError(f, err)
				require.NoError(f, outbox.Register[Seat](box, "seat"))
				hook := &dbtest.FreezeBefore{Proxy: proxy, Text: text}
				db.AddQueryHook(hook) //nolint:staticcheck // the box has the hooks of db
				ctx, cancel := context.WithCancel(f.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() {
					_, err := box.Sync(ctx, "seat", threeSeats, outbox.SyncOptions{})
					ended <- err
				}()
				require.Eventually(f, func() bool { return hook.Frozen() != "" }, time.Minute, time.Millisecond)
				require.Less(f, f.writeSeat(2), 20*time.Second) // half of it for a busy machine
				cancel()
				proxy.Close()
				require.Error(f, <-ended)
			})
		})
	}
}

// One key that somebody has locked holds up that key, and Sync, but no writer of another.
func TestASyncThatWaitsForAKeyHoldsUpNoOther(t *testing.T) {
	onServers(t, func(f fixture, _ string) {
		tx, err := f.db.BeginTx(f.Context(), nil)
		require.NoError(f, err)
		defer func() { _ = tx.Rollback() }() // it is over where the test ends as it should
		_, err = tx.ExecContext(f.Context(), "UPDATE outbox_revisions SET deleted = deleted WHERE model = 'seat' AND ? = ?",
			bun.Ident("key"), `[2,"a"]`)
		require.NoError(f, err)
		ended := make(chan error, 1)
		var sent int
		go func() {
			var err error
			sent, err = f.box.Sync(f.Context(), "seat", threeSeats, outbox.SyncOptions{})
			ended <- err
		}()
		for until := time.Now().Add(4 * time.Second); time.Now().Before(until); {
			require.Less(f, f.writeSeat(1)+f.writeSeat(3), 10*time.Second)
		}
		require.NoError(f, tx.Rollback())
		require.NoError(f, <-ended)
		require.Equal(f, 3, sent)
	})
}

// Slow is a model whose serializer takes its time.
type Slow struct {
	bun.BaseModel `bun:"table:slow_rows"`
	outbox.Tracked
	ID   int64 `bun:",pk"`
	Text string
}

// A Sync that is slow holds up no writer, and what is written meanwhile is sent as it is then.
func TestASlowSyncHoldsUpNoWriter(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			db := dbtest.Open(t, newURL(t))
			box, err := outbox.New(db, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))
			_, err = db.NewCreateTable().Model((*Slow)(nil)).Exec(t.Context())
			require.NoError(t, err)
			reading, proceed := make(chan struct{}), make(chan struct{})
			slow := atomic.Bool{}
			require.NoError(t, outbox.Register[Slow](box, "slow", outbox.Serializer(
				func(_ context.Context, _ bun.IDB, rows []*Slow) ([]any, error) {
					if slow.CompareAndSwap(true, false) {
						close(reading)
						<-proceed
					}
					objects := make([]any, len(rows))
					for i, r := range rows {
						objects[i] = map[string]any{"id": r.ID, "text": r.Text}
					}
					return objects, nil
				})))
			write := func(row *Slow, insert bool) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				require.NoError(t, box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					if insert {
						_, err := tx.NewInsert().Model(row).Exec(ctx)
						return err
					}
					_, err := tx.NewUpdate().Model(row).WherePK().Exec(ctx)
					return err
				}))
			}
			var pks []json.RawMessage
			for id := range int64(50) {
				write(&Slow{ID: id, Text: "a"}, true)
				pks = append(pks, json.RawMessage(strconv.FormatInt(id, 10)))
			}
			slow.Store(true)
			sent := make(chan int, 1)
			go func() {
				n, err := box.Sync(t.Context(), "slow", pks, outbox.SyncOptions{Queue: "q"})
				assert.NoError(t, err)
				sent <- n
			}()
			<-reading
			write(&Slow{ID: 7, Text: "meanwhile"}, false)
			close(proceed)
			require.Equal(t, 50, <-sent)
			var messages []struct {
				Key      string
				Revision int64
				Data     string
			}
			require.NoError(t, db.NewRaw("SELECT ?, revision, data FROM outbox_messages WHERE ? = 'SYNC'",
				bun.Ident("key"), bun.Ident("signal")).Scan(t.Context(), &messages))
			require.Len(t, messages, 50)
			for _, m := range messages {
				if m.Key == "7" {
					require.EqualValues(t, 1, m.Revision)
					require.Contains(t, m.Data, "meanwhile")
				} else {
					require.Zero(t, m.Revision)
				}
			}
		})
	}
}
