package crash_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport/amqp"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The relay process's environment: its database and its broker.
const (
	relayURL    = "CQRSYNC_CRASH_RELAY"
	relayBroker = "CQRSYNC_CRASH_BROKER"
)

const relayLease = time.Second

// runRelay is the relay that is stopped, continued and killed.
func runRelay(url, broker string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := func() error {
		db, err := database.Open(url)
		if err != nil {
			return err
		}
		publisher, err := open.Publisher(broker, open.Options{})
		if err != nil {
			return err
		}
		rel, err := relay.New(db, publisher, relay.Config{LeaseTTL: relayLease, BatchSize: 50})
		if err != nil {
			return err
		}
		go func() {
			<-rel.Running()
			fmt.Println("here")
		}()
		return rel.Run(ctx)
	}()
	if err != nil {
		fmt.Println("error:", err)
	}
}

func startRelay(t *testing.T, url, broker string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), path)
	child.Env = append(os.Environ(), relayURL+"="+url, relayBroker+"="+broker)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "here\n", line)
	return child
}

// arrivals is what a queue received, in order.
type arrivals struct {
	mu  sync.Mutex
	got []arrival
}

type arrival struct {
	key      string
	revision int64
}

func (a *arrivals) count() int { return len(a.all()) }

// all are the messages, each once.
func (a *arrivals) all() map[arrival]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[arrival]bool{}
	for _, m := range a.got {
		seen[m] = true
	}
	return seen
}

// inversions counts messages that arrived for the first time after a newer one of their key.
func (a *arrivals) inversions() (inversions, duplicates int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen, newest := map[arrival]bool{}, map[string]int64{}
	for _, m := range a.got {
		last, known := newest[m.key]
		switch {
		case seen[m]:
			duplicates++
		case known && m.revision < last:
			inversions++
		}
		seen[m] = true
		newest[m.key] = max(last, m.revision)
	}
	return inversions, duplicates
}

// newExchange returns the broker's URL with an exchange of the test's own, and the name of a queue to be bound to it.
func newExchange(t *testing.T) (broker, queue string) {
	address := dbtest.Address(t, dbtest.RabbitMQ)
	name := fmt.Sprintf("cqrsync_crash_%d", time.Now().UnixNano())
	t.Cleanup(func() {
		conn, err := amqp091.Dial(address)
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		channel, err := conn.Channel()
		require.NoError(t, err)
		for _, queue := range []string{name, amqp.DeadLetterQueue(name), amqp.RegistryQueue(name)} {
			_, err = channel.QueueDelete(queue, false, false, false)
			require.NoError(t, err)
		}
		require.NoError(t, channel.ExchangeDelete(name, false, false))
	})
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "exchange=" + name, name
}

func receive(t *testing.T, broker, queue string) *arrivals {
	subscriber, err := open.Subscriber(broker, queue, open.Options{})
	require.NoError(t, err)
	messages, err := subscriber.SubscribeWindow(t.Context(), "order", 100)
	require.NoError(t, err)
	a := &arrivals{}
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for m := range messages {
			revision, err := strconv.ParseInt(m.Metadata.Get("cqrs_revision"), 10, 64)
			if err == nil {
				a.mu.Lock()
				a.got = append(a.got, arrival{m.Metadata.Get("cqrs_key"), revision})
				a.mu.Unlock()
			}
			m.Ack()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, subscriber.Close())
		receiving.Wait()
	})
	return a
}

// appendRound locks and appends a message per key as the outbox does, none of them replaceable.
func appendRound(ctx context.Context, s *mastertest.Outbox, keys int) error {
	return s.DB().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		changes := make([]ledger.Change, keys)
		for i := range changes {
			changes[i].Key = queue.Key{Model: "order", Key: strconv.Itoa(i)}
		}
		revisions, err := s.Lock(ctx, tx, changes)
		if err != nil {
			return err
		}
		var messages []queue.Message
		for key, r := range revisions {
			messages = append(messages, queue.Message{
				Model: key.Model, Key: key.Key, Revision: r.Revision, After: r.After, Signal: "SAVE", Updated: r.Updated, Keep: true,
				PK: json.RawMessage(key.Key), Data: json.RawMessage(`{"id":` + key.Key + `}`),
			})
		}
		return s.Append(ctx, tx, messages, nil)
	})
}

// On PostgreSQL. A client of SQLite that is stopped in a transaction keeps the file locked, and MariaDB keeps the locks of
// one without a limit.
func TestARelayThatWasStoppedPastItsLeaseAndContinuedDoesNoHarm(t *testing.T) {
	t.Parallel()
	url := dbtest.PostgresURL(t)
	broker, queue := newExchange(t)
	s := mastertest.Open(t, dbtest.Open(t, url))
	arrived := receive(t, broker, queue)
	const keys = 40
	total := 0
	grow := func(rounds int) {
		for range rounds {
			require.NoError(t, appendRound(t.Context(), s, keys))
			total += keys
		}
	}
	requireAll := func(why string) {
		require.Eventually(t, func() bool {
			st, err := s.Status(context.WithoutCancel(t.Context()))
			return err == nil && st.Unsent == 0 && arrived.count() == total
		}, time.Minute, 10*time.Millisecond, why)
	}

	stopped := startRelay(t, url, broker)
	grow(30)
	require.Eventually(t, func() bool { return arrived.count() > keys }, time.Minute, time.Millisecond)
	require.NoError(t, stopped.Process.Signal(servers.Freeze)) // in the middle of it
	second := startRelay(t, url, broker)                       // gets the lanes when the lease has run out
	grow(10)
	requireAll("the second relay does not take over")

	require.NoError(t, stopped.Process.Signal(servers.Thaw))
	grow(20)
	requireAll("they do not share the lanes")

	require.NoError(t, second.Process.Kill())
	require.Error(t, second.Wait())
	grow(10)
	requireAll("the first relay does not take over again")
	require.NoError(t, stopped.Process.Signal(syscall.SIGTERM))
	require.NoError(t, stopped.Wait())

	inversions, duplicates := arrived.inversions()
	require.Zero(t, inversions)
	t.Logf("%d messages, %d duplicates", total, duplicates)
}
