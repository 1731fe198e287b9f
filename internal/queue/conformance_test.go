package queue_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue/queuetest"
)

// Every database runs the one suite, and so does PostgreSQL with a bun.DB that knows nothing of its
// driver.

func TestQueue(t *testing.T) { dbtest.Everywhere(t, queuetest.Relay) }
