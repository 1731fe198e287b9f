package nats

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
)

// consumer is a subscription's side of a queue: it asks for as many messages as there is room for,
// keeps those it has alive, and settles them.
//
// What it has is known by a number of its own, because the same message may come again while it is
// still in somebody's hands: then it is not handed out a second time.
type consumer struct {
	subscriber *Subscriber
	topics     []string
	ready      chan struct{}
	alive      *time.Ticker

	// What follows belongs to the subscription's loop.
	nc      *natsgo.Conn
	joined  time.Time // when that was tried last
	checked time.Time // when the bindings were looked at
	last    int64

	mu      sync.Mutex
	inbox   *natsgo.Subscription // nil while messages are asked for from nowhere
	pulls   pulls
	heard   time.Time     // when the server said something, last
	every   time.Duration // how often the server is told that messages are still held
	arrived []*natsgo.Msg
	held    map[int64]*holding
	at      map[uint64]*holding // the same, by their place in the stream
	broken  error               // why the queue has to be joined anew
	stop    chan struct{}
	running sync.WaitGroup
}

// holding is a message in the subscription's hands.
type holding struct {
	number   int64
	sequence uint64
	reply    string // where it is answered for
}

func newConsumer(s *Subscriber, topics []string) *consumer {
	return &consumer{
		subscriber: s, topics: topics, ready: make(chan struct{}, 1),
		held: map[int64]*holding{}, at: map[uint64]*holding{}, stop: make(chan struct{}),
	}
}

// Ready implements delivery.Queue.
func (c *consumer) Ready() <-chan struct{} { return c.ready }

func (c *consumer) wake() {
	select {
	case c.ready <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// receive takes a message, or why none comes.
func (c *consumer) receive(m *natsgo.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wake()
	if m.Sub != c.inbox {
		if m.Reply != "" { // asked for by a former address
			_ = m.Nak()
		}
		return
	}
	c.heard = time.Now()
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 && m.Reply == "" {
		c.pulls, c.broken = c.pulls.ended(m.Header, status)
		return
	}
	c.pulls = c.pulls.filled()
	c.arrived = append(c.arrived, m)
}

// Exchange implements delivery.Queue.
func (c *consumer) Exchange(
	ctx context.Context, acked, returned []int64, room int,
) ([]delivery.Taken, error) {
	if err := c.mend(ctx); err != nil {
		return nil, err
	}
	c.settle(ctx, acked, returned)
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.take(room)
	if c.pulls.late(c.heard) { // a server that went away forgets what it was asked
		c.broken = errLate
		c.wake()
		return taken, nil
	}
	if more := room - len(taken) - c.pulls.open(); more > 0 {
		if err := c.pull(more); err != nil {
			c.broken = err
			c.wake()
		}
	}
	return taken, nil
}

var (
	ackOf = []byte("+ACK")
	nakOf = []byte("-NAK")
	inUse = []byte("+WPI")
)

// settle tells the server what became of messages. What it does not hear comes again. It returns
// when those that are given back are: else what is asked for next would come before them.
func (c *consumer) settle(ctx context.Context, acked, returned []int64) {
	c.mu.Lock()
	c.answer(acked, ackOf)
	last := ""
	if n := len(returned); n > 0 && c.held[returned[n-1]] != nil {
		last = c.held[returned[n-1]].reply
		c.forget(returned[n-1])
		returned = returned[:n-1]
	}
	c.answer(returned, nakOf)
	c.mu.Unlock()
	if last == "" {
		return
	}
	ctx, cancel := bounded.Timeout(ctx, nakTimeout, nil)
	defer cancel()
	_, _ = c.nc.RequestWithContext(ctx, last, nakOf)
}

// nakTimeout is how long the server may take to say that it has messages back.
const nakTimeout = 2 * time.Second

func (c *consumer) answer(numbers []int64, with []byte) {
	for _, number := range numbers {
		if h := c.held[number]; h != nil {
			_ = c.nc.Publish(h.reply, with)
			c.forget(number)
		}
	}
}

func (c *consumer) forget(number int64) {
	h := c.held[number]
	delete(c.held, number)
	if c.at[h.sequence] == h {
		delete(c.at, h.sequence)
	}
}

// take hands out what has arrived.
func (c *consumer) take(room int) (taken []delivery.Taken) {
	stream, _ := c.subscriber.place(c.topics)
	for len(c.arrived) > 0 && len(taken) < room {
		m := c.arrived[0]
		c.arrived[0] = nil
		c.arrived = c.arrived[1:]
		sequence := sequenceOf(m.Reply)
		if h := c.at[sequence]; h != nil { // it comes again, and is in work
			h.reply = m.Reply
			continue
		}
		c.last++
		h := &holding{c.last, sequence, m.Reply}
		c.held[h.number], c.at[sequence] = h, h
		msg := decode(m, fmt.Sprintf("%s:%d", stream, sequence))
		if strings.HasPrefix(m.Subject, c.direct()) {
			msg.Metadata.Set(transport.DirectKey, "true")
		}
		taken = append(taken, delivery.Taken{ID: h.number, Message: msg})
	}
	return taken
}

// direct is what the subjects begin with of messages for this queue alone.
func (c *consumer) direct() string {
	return strings.TrimSuffix(directSubjects(c.subscriber.config.Stream,
		c.subscriber.Queue(c.topics[0])), ">")
}

// sequenceOf returns a message's place in its stream, of the address where it is answered for:
// $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<…>.<time>.<pending>, in which newer servers
// have domain, account and a token more.
func sequenceOf(reply string) uint64 {
	tokens := strings.Split(reply, ".")
	place := 5
	if len(tokens) >= 11 {
		place = 7
	}
	if len(tokens) <= place {
		return 0
	}
	n, err := strconv.ParseUint(tokens[place], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// keepAlive tells the server of messages that take their time, or it would give them to somebody
// else, and looks whether it still says something itself.
func (c *consumer) keepAlive() {
	told := time.Now()
	for {
		select {
		case <-c.stop:
			return
		case <-c.alive.C:
		}
		c.mu.Lock()
		if time.Since(told) >= c.every {
			told = time.Now()
			c.tellAlive()
		}
		late := c.pulls.late(c.heard)
		c.mu.Unlock()
		if late {
			c.wake()
		}
	}
}

func (c *consumer) tellAlive() {
	for _, h := range c.held {
		_ = c.nc.Publish(h.reply, inUse)
	}
	for _, m := range c.arrived {
		_ = c.nc.Publish(m.Reply, inUse)
	}
}

// Leave implements delivery.Queue.
func (c *consumer) Leave(ctx context.Context, acked []int64) error {
	c.subscriber.mu.Lock()
	delete(c.subscriber.consumers, c)
	c.subscriber.mu.Unlock()
	close(c.stop)
	c.alive.Stop()
	c.running.Wait()
	c.mu.Lock()
	c.answer(acked, ackOf)
	c.mu.Unlock()
	err := c.drain(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range slices.SortedFunc(maps.Values(c.held), bySequence) {
		_ = c.nc.Publish(h.reply, nakOf)
	}
	for _, m := range c.arrived {
		_ = c.nc.Publish(m.Reply, nakOf)
	}
	c.arrived = nil
	if err == nil {
		err = c.nc.FlushWithContext(ctx)
	}
	return err
}

func bySequence(a, b *holding) int { return cmp.Compare(a.sequence, b.sequence) }

// drain ends the listening when everything has come that was on its way: the server counts that as
// delivered.
func (c *consumer) drain(ctx context.Context) error {
	c.mu.Lock()
	sub := c.inbox
	c.mu.Unlock()
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	if err := sub.Drain(); err != nil {
		_ = sub.Unsubscribe()
		return err
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
