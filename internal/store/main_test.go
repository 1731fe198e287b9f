package store

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t *testing.T, db *bun.DB) *Store {
	t.Helper()
	s, err := New(db, Names{})
	require.NoError(t, err)
	return s
}
