package clusters

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// rabbitmqOptions notice in seconds that a node hangs, which by default takes half a minute.
const rabbitmqOptions = "?queue_type=quorum&heartbeat=2&confirm_timeout=6s&connection_timeout=6000"

// A quorum queue on three nodes loses nothing with one, be it killed, cut off, or only no longer
// the leader.
func TestRabbitMQCluster(t *testing.T) {
	asked(t)
	began := time.Now()
	c := servers.StartRabbitMQCluster(t)
	t.Logf("three nodes after %.1f s", time.Since(began).Seconds())
	s := newSystem(t, dbtest.SQLiteURL(t), dbtest.SQLiteURL(t), c.URL()+rabbitmqOptions)
	s.write()
	leader := queueLeader(t, c)
	s.during("the queue's leader is killed", func() { require.NoError(t, leader.Stop(syscall.SIGKILL)) })
	s.during("it comes back", func() { require.NoError(t, leader.Start()) })
	leader = queueLeader(t, c)
	s.during("its leader is drained, as for an upgrade, and revived", func() {
		for _, command := range []string{"drain", "revive"} {
			output, err := leader.Control(t.Context(), "rabbitmq-upgrade", command)
			require.NoError(t, err, output)
			s.flows(50)
		}
	})
	leader = queueLeader(t, c)
	s.during("its leader hangs, and goes on when others have taken over", func() {
		// What the others had sent to it, it takes when it goes on: after what was sent again.
		s.hung = true
		require.NoError(t, leader.Freeze())
		s.flows(50)
		require.NoError(t, leader.Thaw())
	})
	s.finish()
}

// queueLeader is the node that leads the replica's queue, as another one says.
func queueLeader(t *testing.T, c *servers.RabbitMQCluster) (leader *servers.RabbitMQNode) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, n := range c.Nodes {
			output, err := n.Control(t.Context(), "rabbitmqctl", "list_queues", "--no-table-headers", "name", "leader")
			if err != nil {
				continue
			}
			for line := range strings.Lines(output) {
				fields := strings.Fields(line)
				for _, other := range c.Nodes {
					if len(fields) == 2 && fields[0] == "stats" && fields[1] == other.Name {
						leader = other
						return true
					}
				}
			}
		}
		return false
	}, patience, 100*time.Millisecond, "the queue has no leader")
	return leader
}
