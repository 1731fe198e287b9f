package clusters

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/network"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// natsVariable makes the test binary a node, and holds its settings.
const natsVariable = "CQRSYNC_TEST_NATS_NODE"

// natsSettings are a node's.
type natsSettings struct {
	Name, Dir, Routes string
	Port, RoutePort   int
	ClientAdvertise   string
}

// nowhere is what nodes tell each other of themselves, so that they take none but their own routes,
// on which are proxies.
const nowhere = "127.0.0.1:1"

// runNATS is a node, until its input ends, as it does with the test.
func runNATS(settings string) error {
	var s natsSettings
	if err := json.Unmarshal([]byte(settings), &s); err != nil {
		return err
	}
	node, err := server.NewServer(&server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: s.Port, ClientAdvertise: s.ClientAdvertise,
		JetStream: true, StoreDir: s.Dir, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{
			Name: "cqrsync", Host: "127.0.0.1", Port: s.RoutePort, Advertise: nowhere,
		},
		Routes: server.RoutesFromStr(s.Routes),
	})
	if err != nil {
		return err
	}
	node.Start()
	if !node.ReadyForConnections(time.Minute) {
		return fmt.Errorf("%s does not listen on port %d", s.Name, s.Port)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	node.Shutdown()
	node.WaitForShutdown()
	return err
}

// natsNode is one of a cluster.
type natsNode struct {
	settings natsSettings
	ways     []*network.Proxy // from here to other nodes, and from them to here
	clients  *network.Proxy   // of publishers and subscribers
	command  *exec.Cmd
	input    io.Closer
}

type natsCluster struct {
	t     *testing.T
	nodes []*natsNode
}

// startNATS starts three nodes, which reach each other through proxies.
func startNATS(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	for i := range 3 {
		n := &natsNode{settings: natsSettings{
			Name: fmt.Sprintf("n%d", i+1), Dir: t.TempDir(),
			Port: servers.OwnPort(t), RoutePort: servers.OwnPort(t),
		}}
		n.clients = proxy(t, n.settings.Port)
		n.settings.ClientAdvertise = n.clients.Address()
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		var routes []string
		for _, other := range c.nodes {
			if other != n {
				way := proxy(t, other.settings.RoutePort)
				n.ways, other.ways = append(n.ways, way), append(other.ways, way)
				routes = append(routes, "nats://"+way.Address())
			}
		}
		n.settings.Routes = strings.Join(routes, ",")
		c.start(n)
	}
	began := time.Now()
	require.Eventually(t, func() bool {
		_, err := c.look(c.nodes[2], "cqrs")
		return errors.Is(err, jetstream.ErrStreamNotFound)
	}, patience, 50*time.Millisecond, "the nodes find no leader")
	t.Logf("three nodes after %.1f s", time.Since(began).Seconds())
	return c
}

func proxy(t *testing.T, port int) *network.Proxy {
	t.Helper()
	p, err := network.NewProxy(fmt.Sprintf("127.0.0.1:%d", servers.OwnPort(t)),
		fmt.Sprintf("127.0.0.1:%d", port), 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func (c *natsCluster) start(n *natsNode) {
	c.t.Helper()
	settings, err := json.Marshal(n.settings)
	require.NoError(c.t, err)
	n.command = exec.CommandContext(context.WithoutCancel(c.t.Context()), os.Args[0])
	n.command.Env = append(os.Environ(), natsVariable+"="+string(settings))
	n.command.Stderr = os.Stderr
	n.input, err = n.command.StdinPipe()
	require.NoError(c.t, err)
	output, err := n.command.StdoutPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, n.command.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(c.t, err, "%s", line)
	c.t.Cleanup(func() { c.kill(n) })
}

// kill ends a node as a power cut does.
func (c *natsCluster) kill(n *natsNode) {
	if n.command != nil {
		_ = n.command.Process.Signal(syscall.SIGKILL) // it may be stopped, or have ended
		_ = n.command.Wait()                          // it was killed
		n.command = nil
	}
}

// url names all nodes, each behind the proxy for clients.
func (c *natsCluster) url(options string) string {
	var hosts []string
	for _, n := range c.nodes {
		hosts = append(hosts, n.clients.Address())
	}
	return "nats://" + strings.Join(hosts, ",") + "?replicas=3" + options
}

// leader is the node that leads the stream, as the others say; nil while there is none.
func (c *natsCluster) leader() *natsNode {
	for _, n := range c.nodes {
		if name, _ := c.state(n, "cqrs"); name != "" {
			for _, other := range c.nodes {
				if other.settings.Name == name {
					return other
				}
			}
		}
	}
	return nil
}

// state asks one node who leads a stream, and how many others have all of it.
func (c *natsCluster) state(n *natsNode, stream string) (leader string, current int) {
	info, err := c.look(n, stream)
	if err != nil || info.Cluster == nil {
		return "", 0
	}
	for _, peer := range info.Cluster.Replicas {
		if peer.Current && !peer.Offline {
			current++
		}
	}
	return info.Cluster.Leader, current
}

// look asks one node about a stream.
func (c *natsCluster) look(n *natsNode, stream string) (*jetstream.StreamInfo, error) {
	if n.command == nil {
		return nil, errors.New("the node does not run")
	}
	nc, err := natsgo.Connect(fmt.Sprintf("nats://127.0.0.1:%d", n.settings.Port),
		natsgo.NoReconnect(), natsgo.Timeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	found, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	return found.CachedInfo(), nil
}

func (c *natsCluster) leads() *natsNode {
	c.t.Helper()
	var leader *natsNode
	require.Eventually(c.t, func() bool {
		leader = c.leader()
		return leader != nil
	}, patience, 50*time.Millisecond, "the stream has no leader")
	return leader
}

// whole waits until all three nodes have all of the streams.
func (c *natsCluster) whole() {
	c.t.Helper()
	for _, stream := range []string{"cqrs", "cqrs_inbox", "cqrs_notes"} {
		require.Eventually(c.t, func() bool {
			for _, n := range c.nodes {
				if _, current := c.state(n, stream); current == 2 {
					return true
				}
			}
			return false
		}, patience, 100*time.Millisecond, "a node does not catch up with %s", stream)
	}
}

// cutOff takes a node away from the others, and from the clients that stand at it. It hears nobody,
// and is not heard.
func (c *natsCluster) cutOff(n *natsNode) (heal func()) {
	all := append(slices.Clone(n.ways), n.clients)
	for _, way := range all {
		way.Cut()
	}
	return func() {
		for _, way := range all {
			way.Heal()
		}
	}
}

// stored reads the stream by the numbers of its messages. What a consumer gets may come later than
// it stands there: with a connection between two servers what is under way on it is lost, and
// delivered again.
func (c *natsCluster) stored() (next func() []byte) {
	var messages []*jetstream.RawStreamMsg
	return func() []byte {
		c.t.Helper()
		if messages == nil {
			messages = c.readAll()
		}
		if len(messages) == 0 {
			return nil
		}
		body := messages[0].Data
		messages = messages[1:]
		return body
	}
}

func (c *natsCluster) readAll() (all []*jetstream.RawStreamMsg) {
	c.t.Helper()
	nc, err := natsgo.Connect(fmt.Sprintf("nats://127.0.0.1:%d", c.nodes[0].settings.Port))
	require.NoError(c.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(c.t, err)
	stream, err := js.Stream(c.t.Context(), "cqrs")
	require.NoError(c.t, err)
	state := stream.CachedInfo().State
	for i := state.FirstSeq; i <= state.LastSeq; i++ {
		msg, err := stream.GetMsg(c.t.Context(), i)
		require.NoError(c.t, err)
		all = append(all, msg)
	}
	return all
}
