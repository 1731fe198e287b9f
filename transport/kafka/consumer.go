package kafka

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

const (
	// mostWaiting bounds what a consumer has fetched and not handed out.
	mostWaiting = 2000
	// mostPolled is how much of it comes at once.
	mostPolled = 500
	// checkBindings is how often a subscription looks which topics its queue is bound to.
	checkBindings = 2 * time.Second
	// keepBindings is how often it looks whether it is bound to its own.
	keepBindings = 30 * time.Second
	// noteAfter is how late it says what it has in hands.
	noteAfter = time.Second
)

// consumer is a subscription's side of a queue: a member of its group.
type consumer struct {
	subscriber *Subscriber
	topics     []string
	queue      string
	client     *kgo.Client
	ready      chan struct{}
	stop       context.CancelFunc
	running    sync.WaitGroup
	settled    chan struct{} // receives when there is something to commit
	roomy      chan struct{} // receives when what was fetched has been handed out
	committing sync.Mutex

	mu       sync.Mutex
	bound    map[string]bool // topics that the group reads
	lanes    map[string]map[int32]*lane
	waiting  int
	handed   map[int64]handle
	last     int64
	trouble  error // lasts until the brokers answer
	arrived  bool  // something has since somebody looked
	leaving  bool
	released chan struct{} // receives when a lane that is given up may have nothing in hands
}

// handle is where a message that was handed out stands.
type handle struct {
	lane   *lane
	offset int64
}

func newConsumer(s *Subscriber, topics []string, bound offsets) (*consumer, error) {
	c := &consumer{
		subscriber: s, topics: topics, queue: s.Queue(topics[0]),
		ready: make(chan struct{}, 1), settled: make(chan struct{}, 1),
		roomy: make(chan struct{}, 1), released: make(chan struct{}, 1),
		bound: map[string]bool{}, lanes: map[string]map[int32]*lane{}, handed: map[int64]handle{},
	}
	for topic := range bound {
		c.bound[topic] = true
	}
	var err error
	if c.client, err = c.member(bound.topics()); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.running.Go(func() { c.poll(ctx) })
	c.running.Go(func() { c.note(ctx) })
	c.running.Go(func() { c.watch(ctx) })
	return c, nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // nobody has looked since the last time
	}
}

// Ready implements delivery.Queue.
func (c *consumer) Ready() <-chan struct{} { return c.ready }

// poll fetches, as long as there is room. While it holds what it fetched no partition is taken
// away; while the replica works, the client goes on saying that it lives.
func (c *consumer) poll(ctx context.Context) {
	for ctx.Err() == nil {
		c.mu.Lock()
		full := c.waiting >= mostWaiting
		c.mu.Unlock()
		if full {
			select {
			case <-c.roomy:
			case <-ctx.Done():
			}
			continue
		}
		fetched := c.client.PollRecords(ctx, mostPolled)
		c.receive(ctx, fetched)
		c.client.AllowRebalance()
	}
}

func (c *consumer) receive(ctx context.Context, fetched kgo.Fetches) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fetched.EachError(func(_ string, _ int32, err error) {
		if ctx.Err() == nil && !errors.Is(err, kgo.ErrClientClosed) {
			c.trouble = explain(ctx, err)
		}
	})
	fetched.EachRecord(func(r *kgo.Record) {
		c.trouble = nil
		c.arrived = true
		if l := c.lanes[r.Topic][r.Partition]; l != nil {
			before := l.waiting
			l.add(r, r.Value != nil) // null is what removes another one
			c.waiting += l.waiting - before
		}
	})
	wake(c.ready)
}

// Exchange implements delivery.Queue. It calls nobody: what it is told is committed soon.
func (c *consumer) Exchange(
	_ context.Context, acked, returned []int64, room int,
) ([]delivery.Taken, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(acked, true)
	c.settle(returned, false)
	if c.trouble != nil && c.waiting == 0 { // else the brokers are not missed
		wake(c.ready)
		return nil, c.trouble
	}
	taken := c.take(room)
	if c.waiting < mostWaiting {
		wake(c.roomy)
	}
	return taken, nil
}

func (c *consumer) settle(numbers []int64, acked bool) {
	for _, number := range numbers {
		h, found := c.handed[number]
		delete(c.handed, number)
		if !found || c.lanes[h.lane.topic][h.lane.partition] != h.lane {
			continue // it is somebody else's meanwhile
		}
		before := h.lane.waiting
		h.lane.settle(h.offset, acked)
		c.waiting += h.lane.waiting - before
		if h.lane.leaving {
			wake(c.released)
		}
	}
	if acked && len(numbers) > 0 {
		wake(c.settled)
	}
}

// take hands out what was published first, as far as it was fetched.
func (c *consumer) take(room int) (taken []delivery.Taken) {
	tooOld := c.tooOld()
	next := lanes{}
	peek := func(l *lane) {
		before := l.waiting
		if r := l.next(tooOld); r != nil {
			heap.Push(&next, waitingLane{l, r.Timestamp})
		}
		c.waiting += l.waiting - before
	}
	for _, partitions := range c.lanes {
		for _, l := range partitions {
			if l.waiting > 0 {
				peek(l)
			}
		}
	}
	direct := c.subscriber.config.queueTopic(c.queue)
	for len(next) > 0 && len(taken) < room {
		l := next[0].lane
		heap.Pop(&next)
		r := l.entries[l.cursor].record
		l.take()
		c.waiting--
		c.last++
		c.handed[c.last] = handle{l, r.Offset}
		msg := decode(r)
		if r.Topic == direct {
			msg.Metadata.Set(transport.DirectKey, "true")
		}
		taken = append(taken, delivery.Taken{ID: c.last, Message: msg})
		peek(l)
	}
	if len(next) > 0 {
		wake(c.ready)
	}
	return taken
}

// tooOld says of a record that nobody is to get it any more.
func (c *consumer) tooOld() func(*kgo.Record) bool {
	now, bounded := time.Now(), isInboxTopic(c.queue)
	return func(r *kgo.Record) bool {
		return expired(r, now) || bounded && now.Sub(r.Timestamp) > inbox.TTL
	}
}

// Leave implements delivery.Queue.
func (c *consumer) Leave(ctx context.Context, acked []int64) error {
	c.mu.Lock()
	c.settle(acked, true)
	c.leaving = true
	for number, h := range c.handed { // the others go back
		h.lane.settle(h.offset, false)
		delete(c.handed, number)
	}
	c.mu.Unlock()
	wake(c.released)
	c.stop()
	c.running.Wait()
	err := c.commit(ctx)
	limited, cancel := bounded.Timeout(ctx, leaveTimeout, nil)
	defer cancel()
	c.client.AllowRebalance()
	err = errors.Join(err, c.client.LeaveGroupContext(limited))
	c.client.CloseAllowingRebalance()
	return explain(ctx, err)
}

// leaveTimeout is how long the brokers may take to hear that a member goes.
const leaveTimeout = 5 * time.Second
