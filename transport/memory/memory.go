// Package memory is a message broker inside the process, for tests and examples: topics, named
// queues bound to them, consumers that compete for a queue. It behaves like the other transports,
// except that nothing survives the process.
//
// A message that is published is in its queues when the call returns. There it waits until it is
// consumed, however many there are: memory is bounded only by who consumes, and by the messages'
// expiration. A message for a topic that no queue is bound to is dropped, as a broker drops it, or
// refused where Publisher.RequireQueue is set.
//
// Promises: order per queue (P4), at least once while the process lives. Neighbours: transport,
// whose interfaces it implements; transport/open makes a broker by URL.
package memory

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/expiry"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// Broker holds the queues. Publishers and subscribers of one Broker reach each other. It needs no
// closing.
type Broker struct {
	mu       sync.Mutex
	last     int64 // the newest message's position
	queues   map[string]*queue
	bindings map[string][]*queue  // by topic
	inboxes  map[*queue]time.Time // those among queues, and since when each has had no consumer

	databases map[string]string // noted with each queue
}

// New returns a broker without queues.
func New() *Broker {
	return &Broker{
		queues: map[string]*queue{}, bindings: map[string][]*queue{}, inboxes: map[*queue]time.Time{},
		databases: map[string]string{},
	}
}

// queue is guarded by the Broker's lock.
type queue struct {
	name  string
	inbox bool
	// Messages are taken oldest first, so whatever was taken and put back is older than everything
	// in fresh.
	returned, fresh []entry
	consumers       map[*consumer]struct{}
}

type entry struct {
	id      int64
	message *message.Message // never handed out itself: handlers change what they get
	expires time.Time        // zero: never
}

func (e entry) expired(now time.Time) bool { return !e.expires.IsZero() && !now.Before(e.expires) }

// bind makes the queue, if it is new, and lets it receive topics, at least one, and their direct
// forms.
func (b *Broker) bind(name string, topics ...string) *queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue(name)
	b.connect(q, topics)
	return q
}

// connect has a queue receive what is sent to topics and to its own direct topics.
func (b *Broker) connect(q *queue, topics []string) {
	for _, topic := range topics {
		b.route(topic, q)
		b.route(transport.DirectTopic(q.name, topic), q)
	}
}

// queue returns the queue of that name, which it makes if it is new.
func (b *Broker) queue(name string) *queue {
	q := b.queues[name]
	if q == nil {
		q = &queue{name: name, consumers: map[*consumer]struct{}{}}
		b.queues[name] = q
	}
	return q
}

func (b *Broker) route(key string, q *queue) {
	if !slices.Contains(b.bindings[key], q) {
		b.bindings[key] = append(b.bindings[key], q)
	}
}

// publish returns what is wrong with each message. One for which there is no queue is dropped, or
// refused if a queue is required.
func (b *Broker) publish(batch []transport.Outgoing, required bool) []error {
	errs := make([]error, len(batch))
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removeIdle(now)
	for i, out := range batch {
		ttl, limited, err := expiry.Of(out.Message.Metadata)
		queues := b.bindings[out.Topic]
		if err == nil && required && len(queues) == 0 {
			err = transport.ErrUnroutable
		}
		if err != nil {
			errs[i] = fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, err)
			continue
		}
		b.last++
		kept := entry{id: b.last, message: clone(out.Message)}
		kept.message.Metadata = expiry.Travelling(kept.message.Metadata)
		if limited {
			kept.expires = now.Add(ttl)
		}
		for _, q := range queues {
			q.add(kept, now)
		}
	}
	return errs
}

func (q *queue) add(e entry, now time.Time) {
	for len(q.fresh) > 0 && q.fresh[0].expired(now) { // nobody may ever take it
		q.fresh[0] = entry{}
		q.fresh = q.fresh[1:]
	}
	if q.inbox {
		e.expires = earlier(e.expires, now.Add(inbox.TTL))
	}
	q.fresh = append(q.fresh, e)
	if waiting := len(q.returned) + len(q.fresh); q.inbox && waiting > inbox.Most {
		q.take(waiting-inbox.Most, now)
	}
	q.wake()
}

// take removes the oldest messages, and passes over those that have expired.
func (q *queue) take(room int, now time.Time) (taken []entry) {
	for _, from := range []*[]entry{&q.returned, &q.fresh} {
		n := 0
		for ; n < len(*from) && len(taken) < room; n++ {
			if e := (*from)[n]; !e.expired(now) {
				taken = append(taken, e)
			}
		}
		clear((*from)[:n]) // the array lives on under the slice: let go of the messages
		*from = (*from)[n:]
	}
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
