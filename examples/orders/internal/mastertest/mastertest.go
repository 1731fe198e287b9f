// Package mastertest plays the master for tests of the replica services: it sends messages about
// orders through a broker in memory, and says when they have been dealt with.
package mastertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// Service is what a replica service offers.
type Service interface {
	Replicate(context.Context, message.Subscriber) error
	Running() <-chan struct{}
	Stats() replica.Stats
}

// Master sends messages to one service.
type Master struct {
	t         *testing.T
	service   Service
	publisher *memory.Publisher
	sent      int64
	revisions map[int64]int64
}

// Start runs the service's replication until the test ends.
func Start(t *testing.T, service Service) *Master {
	broker := memory.New()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Replicate(ctx, broker.Subscriber("queue")) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error("replicate:", err)
		}
	})
	<-service.Running()
	return &Master{t: t, service: service, publisher: broker.Publisher(), revisions: map[int64]int64{}}
}

// Save sends an order, given as instance_data without the revision,
// and waits until the service has it.
func (m *Master) Save(id int64, data string) {
	m.send(envelope.Save, id, json.RawMessage(data))
}

// Sync sends an order again on request.
func (m *Master) Sync(id int64, data string) {
	m.send(envelope.Sync, id, json.RawMessage(data))
}

// Delete sends the end of an order.
func (m *Master) Delete(id int64) {
	m.send(envelope.Delete, id, envelope.DeleteData(strconv.AppendInt(nil, id, 10)))
}

func (m *Master) send(signal envelope.Signal, id int64, data json.RawMessage) {
	m.t.Helper()
	revision, known := m.revisions[id]
	if known && signal != envelope.Sync {
		revision++
	}
	m.revisions[id] = revision
	updated := time.Now().UTC().Truncate(time.Microsecond)
	letter := &envelope.Message{
		Signal: signal, Model: "order", PK: strconv.AppendInt(nil, id, 10), Key: fmt.Sprint(id),
		Data: envelope.Stamp(data, revision, updated), Revision: revision, Updated: updated,
	}
	body, err := letter.Encode()
	if err != nil {
		m.t.Fatal("encode:", err)
	}
	out := message.NewMessage(watermill.NewUUID(), body)
	out.Metadata = letter.Metadata()
	if err := m.publisher.Publish("order", out); err != nil {
		m.t.Fatal("publish:", err)
	}
	m.sent++
	m.await()
}

// await returns once the service has dealt with every message.
func (m *Master) await() {
	m.t.Helper()
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		s := m.service.Stats()
		switch {
		case s.DeadLettered > 0:
			m.t.Fatal("a message was parked")
		case s.Applied+s.Duplicates+s.Stale == m.sent:
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			m.t.Fatalf("the service has not dealt with %d messages: %+v", m.sent, s)
		}
	}
}
