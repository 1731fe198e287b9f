package store_test

import (
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

// Every database kind runs the one suite, and so does PostgreSQL with a bun.DB that knows nothing of its driver.

func TestOutbox(t *testing.T)  { onEveryKind(t, storetest.Outbox) }
func TestRelay(t *testing.T)   { onEveryKind(t, storetest.Relay) }
func TestReplica(t *testing.T) { onEveryKind(t, storetest.Replica) }

func onEveryKind(t *testing.T, suite func(*testing.T, func(testing.TB) *bun.DB)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			suite(t, func(t testing.TB) *bun.DB { return dbtest.Open(t, newURL(t)) })
		})
	}
	t.Run("postgres, any driver", func(t *testing.T) {
		suite(t, func(t testing.TB) *bun.DB {
			return bun.NewDB(dbtest.Open(t, dbtest.PostgresURL(t)).DB, pgdialect.New())
		})
	})
}
