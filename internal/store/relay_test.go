package store_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

func TestRelay(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) { storetest.Relay(t, newURL) })
	}
}
