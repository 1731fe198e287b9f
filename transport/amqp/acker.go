package amqp

import (
	"runtime"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// acker settles the deliveries of one channel with few frames: what has no gap before it becomes
// one. To RabbitMQ a frame costs about as much as a message, whether it acknowledges one or a
// thousand.
type acker struct {
	channel *amqp091.Channel
	hold    int // how many acks beyond a gap may be held back

	mu        sync.Mutex
	unsent    []uint64        // acks
	gathering bool            // somebody is about to send them
	held      bool            // flush will be called
	settled   map[uint64]bool // from lowest on
	// tag that is not settled; a channel with one consumer counts from 1, without gaps
	lowest uint64
}

// holdBack is how long an ack may wait for those of earlier messages: transactions that began
// together end about the same time, not in order.
const holdBack = 20 * time.Millisecond

func newAcker(channel *amqp091.Channel, window int) *acker {
	// Held back messages count as delivered: half of the window must be enough for new ones.
	return &acker{channel: channel, hold: window / 2, settled: map[uint64]bool{}, lowest: 1}
}

// ack sends acks, or leaves them to others who do. An error means that the channel is closed, and
// the broker delivers again.
func (a *acker) ack(tags ...uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(tags)
	a.unsent = append(a.unsent, tags...)
	if a.gathering {
		return
	}
	a.gathering = true
	a.mu.Unlock()
	runtime.Gosched() // acks come in groups: let the others of this one in
	a.mu.Lock()
	a.gathering = false
	a.send(a.hold)
}

// nack is sent before it counts as settled, or an ack of later tags would swallow it.
func (a *acker) nack(requeue bool, tags ...uint64) {
	for _, tag := range tags {
		_ = a.channel.Nack(tag, false, requeue)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(tags)
	a.send(a.hold) // what was held back because of them
}

// flush sends what was held back.
func (a *acker) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = false
	a.send(0)
}

func (a *acker) settle(tags []uint64) {
	for _, tag := range tags {
		a.settled[tag] = true
	}
	for a.settled[a.lowest] {
		delete(a.settled, a.lowest)
		a.lowest++
	}
}

// send acks everything below lowest with one frame, because all of it is settled. The rest is held
// back, or sent one by one where it is more than hold.
func (a *acker) send(hold int) {
	var upTo uint64
	beyond := a.unsent[:0]
	for _, tag := range a.unsent {
		if tag < a.lowest {
			upTo = max(upTo, tag)
		} else {
			beyond = append(beyond, tag)
		}
	}
	if upTo > 0 { // 0 would mean: everything
		_ = a.channel.Ack(upTo, true)
	}
	if len(beyond) > hold {
		for _, tag := range beyond {
			_ = a.channel.Ack(tag, false)
		}
		beyond = beyond[:0]
	}
	a.unsent = beyond
	if len(beyond) > 0 && !a.held {
		a.held = true
		time.AfterFunc(holdBack, a.flush)
	}
}
