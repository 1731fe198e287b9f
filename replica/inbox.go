package replica

import (
	"strconv"
	"sync"

	"github.com/cqrsync/cqrsync/internal/store"
)

// inbox holds the messages that are to be applied, by key, and the workers that apply them. A worker takes all that waits,
// up to a batch: so one message alone is applied at once, and under load the batches grow by themselves. A key is in
// one worker's hands at a time. Workers come with the first message and go with the last: nothing runs that has
// nothing to do, and whoever delivers (Run, a Router's handler, Apply) feeds the same batches.
type inbox struct {
	replica *Replica

	mu      sync.Mutex
	slots   map[store.Key]*slot
	ready   []*slot // with messages, in no worker's hands, longest waiting first
	workers int
	keyless int64 // numbers what has no key
}

// slot is what waits for one key.
type slot struct {
	key   store.Key
	items []*item // in order of arrival
	taken bool    // by a worker
	calls bool    // HandleFunc: taken alone, because every call takes its time
}

// maxBatchBytes bounds a transaction's messages, and with them its statements: SQLite's have a limit, and MariaDB's
// packets.
const maxBatchBytes = 256 << 10

func (in *inbox) init(r *Replica) {
	in.replica = r
	in.slots = make(map[store.Key]*slot)
}

// add hands items over. Each is ended in time.
func (in *inbox) add(items ...*item) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, it := range items {
		key, ok := it.key()
		if !ok {
			in.keyless++
			key = store.Key{Key: strconv.FormatInt(in.keyless, 10)} // of no model, so nobody else's
		}
		s := in.slots[key]
		if s == nil {
			s = &slot{key: key, calls: it.binding != nil && it.binding.call != nil}
			in.slots[key] = s
		}
		s.items = append(s.items, it)
		if len(s.items) == 1 && !s.taken {
			in.ready = append(in.ready, s)
		}
	}
	for range min(in.replica.config.Workers-in.workers, len(in.ready)) {
		in.workers++
		go in.work()
	}
}

func (in *inbox) work() {
	for batch := in.take(nil); batch != nil; batch = in.take(batch) {
		in.replica.settle(batch)
	}
}

// take returns the slots of the next batch, after those of the last were given back; nil ends the worker.
func (in *inbox) take(last []*slot) []*slot {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range last {
		s.taken = false
		if len(s.items) > 0 {
			in.ready = append(in.ready, s)
		} else {
			delete(in.slots, s.key)
		}
	}
	var batch []*slot
	messages, size := 0, 0
	rest := in.ready[:0]
	for i, s := range in.ready {
		full := len(batch) > 0 && (messages >= in.replica.config.Batch || size >= maxBatchBytes || batch[0].calls)
		if full {
			rest = append(rest, in.ready[i:]...)
			break
		}
		if len(batch) > 0 && s.calls {
			rest = append(rest, s)
			continue
		}
		s.taken = true
		batch = append(batch, s)
		messages += len(s.items)
		for _, it := range s.items {
			size += len(it.body)
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

// items takes the messages out of a slot that the caller has in its hands.
func (in *inbox) items(s *slot) []*item {
	in.mu.Lock()
	defer in.mu.Unlock()
	items := s.items
	s.items = nil
	return items
}
