package relay

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// A look back that brings an older message of a key must not cost the newest one (simulation, seed
// 8,205,136).
func TestAnOlderMessageReplacesNoNewerOne(t *testing.T) {
	message := func(id, revision int64) outgoing {
		m := &queue.Claimed{}
		m.ID, m.Key, m.Revision, m.Signal = id, "k", revision, "SAVE"
		return outgoing{Claimed: m}
	}
	behind := follow(follow(nil, message(7, 51)), message(3, 30))
	require.Len(t, behind, 2)
	require.Equal(t, int64(3), behind[0].ID)
	require.Equal(t, int64(7), behind[1].ID)
	require.Empty(t, behind[1].replaced)
}
