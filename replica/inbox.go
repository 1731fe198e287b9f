package replica

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// inbox holds the messages that are to be applied, by key, and the workers that apply them. A
// worker takes all that waits, up to a batch: so one message alone is applied at once, and under
// load the batches grow by themselves. A key is in one worker's hands at a time. Workers come with
// the first message and go with the last: nothing runs that has nothing to do, and whoever delivers
// (Run, a Router's handler, Apply) feeds the same batches.
//
// Mirrors have a second worker only while a whole batch waits for one: two half batches cost more
// than one whole. Handlers take their time, so the workers share out what waits.
type inbox struct {
	engine *engine

	mu      sync.Mutex
	slots   map[db.Key]*slot
	ready   []*slot // with messages, in no worker's hands, longest waiting first
	slow    int     // how many of ready have a handler that is called for each message
	workers int
	keyless int64 // numbers what has no key
	batches atomic.Int64
}

// slot is what waits for one key.
type slot struct {
	key        db.Key
	deliveries []*delivery // in order of arrival
	taken      bool        // by a worker
	slow       bool        // Handle or HandleFunc
	calls      bool        // HandleFunc: taken alone
}

// maxBatchBytes bounds a transaction's messages, and with them its statements: SQLite's have a
// limit, and MariaDB's packets.
const maxBatchBytes = 256 << 10

func (in *inbox) init(e *engine) {
	in.engine = e
	in.slots = make(map[db.Key]*slot)
}

// add hands deliveries over. Each is ended in time.
func (in *inbox) add(deliveries ...*delivery) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, d := range deliveries {
		key := d.key
		if !d.keyed {
			in.keyless++
			key = db.Key{Key: strconv.FormatInt(in.keyless, 10)} // of no model, so nobody else's
		}
		s := in.slots[key]
		if s == nil {
			s = &slot{key: key}
			if b := d.binding; b != nil {
				s.calls, s.slow = b.manner.outside, b.manner.inTurn
			}
			in.slots[key] = s
		}
		s.deliveries = append(s.deliveries, d)
		if len(s.deliveries) == 1 && !s.taken {
			in.queue(s)
		}
	}
	for range min(in.engine.config.Workers-in.workers, in.wanted()) {
		in.workers++
		go in.work()
	}
}

// queue adds a slot to those that are ready.
func (in *inbox) queue(s *slot) {
	in.ready = append(in.ready, s)
	if s.slow {
		in.slow++
	}
}

// wanted is how many more workers would have something to do.
func (in *inbox) wanted() int {
	n := in.slow + (len(in.ready)-in.slow)/in.engine.config.Batch
	if n == 0 && in.workers == 0 {
		n = min(len(in.ready), 1)
	}
	return n
}

func (in *inbox) work() {
	for batch := in.take(nil); batch != nil; batch = in.take(batch) {
		start := time.Now()
		in.batches.Add(1)
		in.engine.settle(batch)
		in.gather(time.Since(start))
	}
}

// maxGather bounds gather.
const maxGather = 5 * time.Millisecond

// gather waits a moment where messages came during the last transaction, but no whole batch: more
// are on their way. Without it a stream stays in the small batches that it begins with, because a
// broker sends as many as it gets acks for. The moment is no longer than the transaction was, so it
// never doubles more than that delay; a message that finds nobody at work does not meet it.
func (in *inbox) gather(took time.Duration) {
	in.mu.Lock()
	n := len(in.ready)
	worthwhile := n > 0 && n < in.engine.config.Batch && in.slow == 0
	in.mu.Unlock()
	if worthwhile {
		<-time.After(min(took, maxGather))
	}
}

// take returns the slots of the next batch, after those of the last were given back; nil ends the
// worker. The last worker does not end while anything is ready.
func (in *inbox) take(last []*slot) []*slot {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range last {
		s.taken = false
		if len(s.deliveries) > 0 {
			in.queue(s)
		} else {
			delete(in.slots, s.key)
		}
	}
	if in.workers > 1 && in.slow == 0 && len(in.ready) < in.engine.config.Batch {
		in.workers-- // who is still at work takes what there is, and what comes meanwhile
		return nil
	}
	var batch []*slot
	messages, size, slow := 0, 0, 0
	share := (in.slow + in.engine.config.Workers - 1) / in.engine.config.Workers
	rest := in.ready[:0]
	for i, s := range in.ready {
		full := len(batch) > 0 && (messages >= in.engine.config.Batch || size >= maxBatchBytes ||
			batch[0].calls)
		if full {
			rest = append(rest, in.ready[i:]...)
			break
		}
		if len(batch) > 0 && s.calls || s.slow && slow == max(share, 1) {
			rest = append(rest, s)
			continue
		}
		if s.slow {
			slow++
			in.slow--
		}
		s.taken = true
		batch = append(batch, s)
		messages += len(s.deliveries)
		for _, d := range s.deliveries {
			size += len(d.body)
		}
	}
	clear(in.ready[len(rest):])
	in.ready = rest
	if batch == nil {
		in.workers--
		in.ready = nil
	}
	return batch
}

// deliveries takes the messages out of a slot that the caller has in its hands.
func (in *inbox) deliveries(s *slot) []*delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	deliveries := s.deliveries
	s.deliveries = nil
	return deliveries
}
