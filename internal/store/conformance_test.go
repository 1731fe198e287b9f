package store_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

// Every database runs the one suite.
func TestOutbox(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) { storetest.Outbox(t, newURL) })
	}
}
