package store_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

// Every database kind runs the one suite, and so does PostgreSQL with a bun.DB that knows nothing of its driver.

func TestOutbox(t *testing.T) { dbtest.Everywhere(t, storetest.Outbox) }
func TestRelay(t *testing.T)  { dbtest.Everywhere(t, storetest.Relay) }
