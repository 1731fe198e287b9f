package transports_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport"
)

// clusterVariable says that there is room and time for three nodes of Kafka: 1.5 GB, two minutes.
const clusterVariable = "CQRSYNC_TEST_KAFKA_CLUSTER"

// Each node of a cluster is killed in turn and comes back, while messages are published and
// consumed: nothing that was confirmed is lost, and of each key each message comes after the one
// before.
func TestKafkaClusterLosesNodes(t *testing.T) {
	if os.Getenv(clusterVariable) == "" {
		t.Skipf("needs 1.5 GB and two minutes: set %s=1", clusterVariable)
	}
	cluster := servers.StartKafka(t, 3)
	k := kafkaAt(t, cluster.URL())
	queue, topic := unique("queue"), unique("topic")
	seen := &sightings{last: map[string]int{}, got: map[string]bool{}}
	for range 2 {
		sub := k.subscriber(t, queue, "partitions=6&replicas=3&lease=6s")
		var messages <-chan *message.Message
		require.Eventually(t, func() (ok bool) { // the nodes have just found each other
			var err error
			messages, err = sub.SubscribeWindow(t.Context(), topic, 50)
			return err == nil
		}, time.Minute, 100*time.Millisecond)
		go seen.read(messages)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w := &keyedWriter{publisher: k.publisher(t, ""), topic: topic}
	var writing sync.WaitGroup
	writing.Go(func() { w.run(ctx) })
	progress := func(what string) {
		t.Helper()
		from := w.count()
		require.Eventually(t, func() bool { return w.count() > from+2000 }, 2*time.Minute, 10*time.Millisecond, what)
		t.Logf("%s: the longest pause between two confirms was %s", what, w.pause().Round(time.Millisecond))
	}
	progress("three nodes")
	for node := range 3 {
		require.NoError(t, cluster.Stop(node, syscall.SIGKILL))
		progress(fmt.Sprintf("node %d killed", node+1))
		require.NoError(t, cluster.Start(node))
		progress(fmt.Sprintf("node %d back", node+1))
	}
	stop()
	writing.Wait()
	require.Eventually(t, func() bool { return seen.missing(w.confirmed) == 0 }, time.Minute, 50*time.Millisecond,
		"messages are lost")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	require.Empty(t, seen.wrong, "messages that came before the one before them")
	t.Logf("%d messages confirmed, %d came twice", len(w.confirmed), seen.repeated)
}

// keyedWriter publishes messages with a number of each key, and one that failed again, in order, as
// a relay does.
type keyedWriter struct {
	publisher transport.BatchPublisher
	topic     string

	mu        sync.Mutex
	confirmed []string
	last      time.Time
	longest   time.Duration
}

func (w *keyedWriter) run(ctx context.Context) {
	const keys, size = 10, 20
	w.last = time.Now()
	for number := 0; ctx.Err() == nil; number += size / keys {
		var batch []transport.Outgoing
		for i := range size {
			m := message.NewMessage(fmt.Sprintf("%d/%d", i%keys, number+i/keys), nil)
			m.Metadata.Set("cqrs_key", fmt.Sprint(i%keys))
			batch = append(batch, transport.Outgoing{Topic: w.topic, Message: m})
		}
		for len(batch) > 0 && ctx.Err() == nil {
			batch = w.publish(ctx, batch)
		}
	}
}

// publish returns what has to be published again.
func (w *keyedWriter) publish(ctx context.Context, batch []transport.Outgoing) (again []transport.Outgoing) {
	errs := w.publisher.PublishBatch(ctx, batch)
	w.mu.Lock()
	defer w.mu.Unlock()
	failed := map[string]bool{}
	for i, out := range batch {
		key := out.Message.Metadata["cqrs_key"]
		if failed[key] = failed[key] || errs[i] != nil; failed[key] {
			again = append(again, out)
			continue
		}
		w.confirmed = append(w.confirmed, out.Message.UUID)
	}
	if len(again) < len(batch) {
		w.longest = max(w.longest, time.Since(w.last))
		w.last = time.Now()
	}
	return again
}

func (w *keyedWriter) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.confirmed)
}

// pause returns the longest time without a confirm since it was called last.
func (w *keyedWriter) pause() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest, w.longest = w.longest, 0
	return longest
}

// sightings are what consumers got.
type sightings struct {
	mu       sync.Mutex
	last     map[string]int
	got      map[string]bool
	wrong    []string
	repeated int
}

func (s *sightings) read(messages <-chan *message.Message) {
	for msg := range messages {
		s.mu.Lock()
		key, text, _ := strings.Cut(msg.UUID, "/")
		var number int
		_, _ = fmt.Sscan(text, &number) // the writer's own
		switch next, known := s.last[key]; {
		case s.got[msg.UUID]:
			s.repeated++
		case number != next+1 && (known || number != 0):
			s.wrong = append(s.wrong, fmt.Sprintf("%s after %d", msg.UUID, next))
		}
		s.last[key] = max(s.last[key], number)
		s.got[msg.UUID] = true
		s.mu.Unlock()
		msg.Ack()
	}
}

func (s *sightings) missing(confirmed []string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range confirmed {
		if !s.got[id] {
			n++
		}
	}
	return n
}
