package memory

import (
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// Inbox returns a subscriber whose topics have an inbox each, a queue called like the topic and
// bound to nothing else. A message waits there for 10 minutes at most, and at most 10,000 do, of
// which the oldest make room for further ones. An inbox that has had no consumer for a day is
// removed.
func (b *Broker) Inbox() *Subscriber {
	s := b.Subscriber("")
	s.inbox = true
	return s
}

// bindInbox makes the inbox of a topic, unless it is there.
func (b *Broker) bindInbox(topic string) *queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue(topic)
	q.inbox = true
	b.inboxes[q] = time.Now()
	b.route(topic, q)
	return q
}

// removeIdle removes inboxes that have had no consumer for long.
func (b *Broker) removeIdle(now time.Time) {
	for q, since := range b.inboxes {
		if len(q.consumers) > 0 || now.Sub(since) < inbox.Expires {
			continue
		}
		delete(b.inboxes, q)
		delete(b.queues, q.name)
		for key, bound := range b.bindings {
			bound = slices.DeleteFunc(bound, func(other *queue) bool { return other == q })
			if b.bindings[key] = bound; len(bound) == 0 {
				delete(b.bindings, key)
			}
		}
	}
}

// earlier returns the earlier of an expiration, which may be zero for none, and a limit.
func earlier(expires, limit time.Time) time.Time {
	if expires.IsZero() || limit.Before(expires) {
		return limit
	}
	return expires
}
