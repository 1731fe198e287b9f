package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/master/mastertest"
)

func newStore(t *testing.T, db *bun.DB) *mastertest.Outbox {
	t.Helper()
	s, err := mastertest.New(db)
	require.NoError(t, err)
	return s
}

// insert appends a message to lane 1 by hand.
func insert(t *testing.T, s *mastertest.Outbox) {
	t.Helper()
	_, err := s.DB().ExecContext(t.Context(), s.SQL(`INSERT INTO outbox_messages
		(lane, model, "key", revision, "signal", pk, data, updated_at)
		VALUES (1, 'order', '1', 0, 'SAVE', '1', '{}', ?)`), s.Dialect().Time(time.Now()))
	require.NoError(t, err)
}
