package clusters

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	_ "github.com/cqrsync/cqrsync/transport/nats"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// longestNATS allows for a machine that does much else: a cluster chooses a leader within nine
// seconds, and nobody needs more than some seconds to hear of it.
const longestNATS = 45 * time.Second

// Three servers that keep each message on three of them lose nothing with one.
func TestNATSCluster(t *testing.T) {
	asked(t)
	c := startNATS(t)
	s := newSystem(t, dbtest.SQLiteURL(t), dbtest.SQLiteURL(t), c.url(""))
	s.next = c.stored()
	c.whole()
	s.write()
	leader := c.leads()
	pause := s.during("the stream's leader is killed", func() { c.kill(leader) })
	require.Less(t, pause, longestNATS)
	pause = s.during("it comes back", func() { c.start(leader); c.whole() })
	require.Less(t, pause, longestNATS)
	leader = c.leads()
	var heal func()
	pause = s.during("the leader is cut off", func() { heal = c.cutOff(leader) })
	require.Less(t, pause, longestNATS)
	pause = s.during("it is back", func() { heal(); c.whole() })
	require.Less(t, pause, longestNATS)
	s.finish()
}
