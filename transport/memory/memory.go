// Package memory is a message broker inside the process, for tests and examples: topics, named queues bound to them,
// consumers that compete for a queue. It behaves like the other transports, except that nothing survives the process.
//
// A message that is published is in its queues when the call returns. There it waits until it is consumed, however
// many there are: memory is bounded only by who consumes. A message for a topic that no queue is bound to is dropped,
// as a broker drops it.
//
// Promises: order per queue (P4), at least once while the process lives. Neighbours: transport, whose interfaces it
// implements; transport/open makes a broker by URL.
package memory

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Broker holds the queues. Publishers and subscribers of one Broker reach each other. It needs no closing.
type Broker struct {
	mu       sync.Mutex
	last     int64 // the newest message's position
	queues   map[string]*queue
	bindings map[string][]*queue // by topic

	databases map[string]string // noted with each queue
}

// New returns a broker without queues.
func New() *Broker {
	return &Broker{queues: map[string]*queue{}, bindings: map[string][]*queue{}, databases: map[string]string{}}
}

// queue is guarded by the Broker's lock.
type queue struct {
	// Messages are taken oldest first, so whatever was taken and put back is older than everything in fresh.
	returned, fresh []entry
	consumers       map[*consumer]struct{}
}

type entry struct {
	id      int64
	message *message.Message // never handed out itself: handlers change what they get
}

// bind makes the queue, if it is new, and lets it receive a topic and its direct form.
func (b *Broker) bind(name, topic string) *queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		q = &queue{consumers: map[*consumer]struct{}{}}
		b.queues[name] = q
	}
	for _, key := range []string{topic, transport.DirectTopic(name, topic)} {
		if !slices.Contains(b.bindings[key], q) {
			b.bindings[key] = append(b.bindings[key], q)
		}
	}
	return q
}

func (b *Broker) publish(batch []transport.Outgoing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, out := range batch {
		b.last++
		kept := entry{b.last, clone(out.Message)}
		for _, q := range b.bindings[out.Topic] {
			q.fresh = append(q.fresh, kept)
			q.wake()
		}
	}
}

// take removes the oldest messages.
func (q *queue) take(room int) []entry {
	fromReturned := min(room, len(q.returned))
	fromFresh := min(room-fromReturned, len(q.fresh))
	taken := slices.Concat(q.returned[:fromReturned], q.fresh[:fromFresh])
	q.returned = slices.Delete(q.returned, 0, fromReturned)
	clear(q.fresh[:fromFresh]) // the array lives on under the slice: let go of the messages
	q.fresh = q.fresh[fromFresh:]
	return taken
}

func (q *queue) putBack(entries []entry) {
	if len(entries) == 0 {
		return
	}
	q.returned = append(q.returned, entries...)
	slices.SortFunc(q.returned, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	q.wake()
}

func (q *queue) wake() {
	for c := range q.consumers {
		select {
		case c.ready <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

func clone(msg *message.Message) *message.Message {
	c := msg.Copy()
	c.Payload = bytes.Clone(msg.Payload)
	return c
}
