package replica

import (
	"runtime"
	"time"
)

// Limit bounds the replica's transactions as tests can wait for it.
func (r *Replica) Limit(idle time.Duration) { r.limit(idle) }

// CrashAt lets tests end a transaction between any two of its steps, as a crash of the process does.
func (r *Replica) CrashAt(crash func(point string) error) { r.crash = crash }

// HoldWorkers lets messages gather until release. It waits for workers that are about to leave.
func (r *Replica) HoldWorkers() (release func()) {
	in := &r.inbox
	in.mu.Lock()
	for in.workers > 0 {
		in.mu.Unlock()
		runtime.Gosched()
		in.mu.Lock()
	}
	in.workers += r.config.Workers
	in.mu.Unlock()
	return func() {
		in.mu.Lock()
		in.workers -= r.config.Workers
		in.mu.Unlock()
		in.add()
	}
}

// Held is how many messages wait for a worker.
func (r *Replica) Held() (n int) {
	r.inbox.mu.Lock()
	defer r.inbox.mu.Unlock()
	for _, s := range r.inbox.slots {
		n += len(s.deliveries)
	}
	return n
}

// Working is how many workers there are.
func (r *Replica) Working() int {
	r.inbox.mu.Lock()
	defer r.inbox.mu.Unlock()
	return r.inbox.workers
}

// Transactions is how many were begun.
func (r *Replica) Transactions() int64 { return r.inbox.batches.Load() }

// RegisterEvery sets how often the database is noted with the queue.
func (r *Replica) RegisterEvery(d time.Duration) { r.registerEvery = d }

// MasterClock is how late it is at least by the clock of an incarnation of a master.
func (r *Replica) MasterClock(model, incarnation string) time.Time {
	from, _ := r.origins.of(model, incarnation)
	return from.clock.at(elapsed())
}

// Nudge makes Maintain look again.
func (r *Replica) Nudge() { r.maintenance.nudge() }

// Repeated is what keeps trouble that lasts from filling the log.
type Repeated struct{ repeated }

// Worth says whether an error is to be logged.
func (r *Repeated) Worth(what string, err error) bool { return r.worth(what, err) }

// Over ends some trouble, and says whether there was any.
func (r *Repeated) Over(what string) bool { _, was := r.over(what); return was }

// BytesHeld is what the bodies of the messages take that are held.
func (r *Replica) BytesHeld() int {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	return r.memory.held
}

// MostHeld is what they took at most.
func (r *Replica) MostHeld() int {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	return r.memory.most
}
