package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Kafka is a cluster of Apache Kafka, each node of which is broker and controller.
type Kafka struct {
	dir   string
	ports []int    // of the brokers
	peers []string // id@port, by which nodes find each other
	nodes []*daemon
}

// kafkaNode is the program that runs a node. Its jars come from Maven Central.
func kafkaNode() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "kafka-node")
}

// StartKafka makes a cluster of so many nodes and starts it.
func StartKafka(t testing.TB, nodes int) *Kafka {
	t.Helper()
	for _, program := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			dbtest.Missing(t, "kafka-server", "install a JDK 17 and Maven")
		}
	}
	output, err := exec.CommandContext(t.Context(), kafkaNode(), "jars").CombinedOutput()
	if err != nil {
		dbtest.Missing(t, "kafka-server", fmt.Sprintf("its jars cannot be had: %s: %s", err, output))
	}
	k := &Kafka{dir: t.TempDir(), nodes: make([]*daemon, nodes)}
	for i := range nodes {
		k.ports = append(k.ports, lowPort(t))
		k.peers = append(k.peers, fmt.Sprintf("%d@%d", i+1, lowPort(t)))
	}
	t.Cleanup(func() {
		for i := range k.nodes {
			require.NoError(t, k.Stop(i, syscall.SIGKILL))
		}
	})
	started := make(chan error, nodes)
	for i := range nodes { // none answers before most of them are there
		go func() { started <- k.Start(i) }()
	}
	var errs []error
	for range nodes {
		errs = append(errs, <-started)
	}
	require.NoError(t, errors.Join(errs...))
	return k
}

// Start starts node i, from 0, and waits until it listens.
func (k *Kafka) Start(i int) (err error) {
	id := strconv.Itoa(i + 1)
	arguments := append([]string{filepath.Join(k.dir, id), id, strconv.Itoa(k.ports[i])}, k.peers...)
	command := exec.CommandContext(context.Background(), kafkaNode(), arguments...)
	k.nodes[i], err = launch(command, k.ports[i])
	return err
}

// Stop ends node i by a signal.
func (k *Kafka) Stop(i int, signal syscall.Signal) error {
	err := k.nodes[i].stop(signal)
	k.nodes[i] = nil
	return err
}

// URL is that of all brokers.
func (k *Kafka) URL() string {
	var hosts []string
	for _, port := range k.ports {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return "kafka://" + strings.Join(hosts, ",")
}

// lowPort is a free port below those that the system gives to connections: one of these could have
// it before a node that was stopped comes back.
func lowPort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 15_000 + rand.IntN(15_000) //nolint:gosec // any will do
		address := fmt.Sprintf("127.0.0.1:%d", port)
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err == nil {
			require.NoError(t, listener.Close())
			return port
		}
	}
	require.FailNow(t, "no port is free")
	return 0
}
