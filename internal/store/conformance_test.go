package store_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

// Every database kind runs the one suite.

func TestOutbox(t *testing.T)  { onEveryKind(t, storetest.Outbox) }
func TestRelay(t *testing.T)   { onEveryKind(t, storetest.Relay) }
func TestReplica(t *testing.T) { onEveryKind(t, storetest.Replica) }

func onEveryKind(t *testing.T, suite func(*testing.T, func(testing.TB) string)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) { suite(t, newURL) })
	}
}
