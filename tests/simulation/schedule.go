package simulation

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

const (
	ttl = time.Second // of leases
	// troubled is how long faults happen; after it everything is well, and all must come to an end.
	troubled = 3 * time.Second
	// patience is how long all may take then. A look back that took a whole lease, because the answer
	// was slow, puts off the next one for fifty times as long.
	patience = 60 * ttl
	// confirmTimeout is how long a relay's publisher waits for an answer that never comes.
	confirmTimeout = ttl
	// longestWait is what a message may wait for a neighbour: the lease of a process that stopped,
	// and what it takes to notice that it ran out and to read.
	longestWait = ttl + ttl/2
)

// schedule is everything that is drawn of a seed. Chances are out of a thousand.
type schedule struct {
	seed uint64

	lanes, keys, relays, transactions, batch, attempts int
	handover                                           bool
	// uneven relays read in batches of several sizes.
	uneven bool
	// neighbourly schedules have a relay that is well, and others that stop; what becomes of its
	// requests is not drawn. Then nobody may wait for longer than longestWait.
	neighbourly bool

	// blind is a database that cannot tell who writes.
	requestLost, answerLost, slow, lateRequest, pause, disorder int // on the way to the database

	slowLease          int // of requests about lanes
	stopInFinish       int // of processes, while they write down what they sent
	outages, partition int // of the database, for all and for one process

	// blind is a database that cannot tell who writes.
	blind bool

	unanswered, cutOff, rejected, poison, lateArrival, twice, never int // on the way to the broker

	lateCommit, rollback, kept, deleted, resync, held int // of writers

	crash, stop, sameName int // of relays

	restores int  // how often the database goes back
	failover bool // another server answers then
	byHand   int  // rows that are put below all others

	// alike is that what is written once more cannot be told from what was lost, but by who owns
	// its lane.
	alike bool
}

func newSchedule(seed uint64) *schedule {
	s := &schedule{seed: seed}
	r := s.dice("schedule", 0)
	s.lanes, s.keys, s.relays = 1+r.IntN(4), 1+r.IntN(6), 1+r.IntN(3)
	s.transactions, s.batch, s.attempts = 5+r.IntN(40), 1+r.IntN(12), 2+r.IntN(6)
	if r.IntN(8) == 0 {
		s.keys, s.transactions, s.batch = 1, 60+r.IntN(60), 1+r.IntN(4) // one key that moves fast
	}
	s.handover, s.neighbourly, s.blind = r.IntN(3) == 0, r.IntN(4) == 0, r.IntN(8) == 0
	for _, chance := range []struct {
		of   *int
		most int
	}{
		{&s.requestLost, 80}, {&s.answerLost, 80}, {&s.slow, 80}, {&s.lateRequest, 500}, {&s.pause, 20},
		{&s.disorder, 200}, {&s.outages, 300}, {&s.partition, 400},
		{&s.unanswered, 150}, {&s.cutOff, 100}, {&s.rejected, 150}, {&s.poison, 60},
		{&s.lateArrival, 150}, {&s.twice, 150}, {&s.never, 80},
		{&s.lateCommit, 400}, {&s.rollback, 200}, {&s.kept, 600}, {&s.deleted, 300}, {&s.resync, 150},
		{&s.held, 300},
		{&s.crash, 700}, {&s.stop, 500}, {&s.sameName, 1000}, {&s.byHand, 300},
	} {
		if r.IntN(2) == 0 { // few kinds of faults at a time find more than all at once
			*chance.of = r.IntN(chance.most)
		}
	}
	switch {
	case s.neighbourly:
		s.relays = 2
		s.crash, s.stop = 0, 0 // of the relay that is well
		s.byHand = 0           // what stands there waits for the next look back
	case r.IntN(8) == 0:
		s.goBack(r)
	case r.IntN(6) == 0:
		s.meet(r)
	}
	return s
}

// goBack makes it one of a database that is taken back while keys move fast.
func (s *schedule) goBack(r *rand.Rand) {
	s.keys, s.transactions = 1+r.IntN(3), 40+r.IntN(80)
	s.restores, s.failover = 1+r.IntN(2), r.IntN(2) == 0
	if s.slow > 0 {
		s.slow = 300 // so that it goes back while requests are on their way
	}
	if s.alike = r.IntN(3) == 0; s.alike { // one key, of which the same is written once more, soon
		s.keys, s.restores, s.rollback, s.lateCommit, s.byHand = 1, 1, 0, 0, 0
		s.transactions, s.kept, s.slow = 120, 600, 500
	}
}

// meet makes it one in which things come together that hardly ever do by chance.
func (s *schedule) meet(r *rand.Rand) {
	*s = schedule{
		seed: s.seed, lanes: 1 + r.IntN(2), keys: 1 + r.IntN(2), relays: 2 + r.IntN(2),
		transactions: 80 + r.IntN(60), batch: s.batch, attempts: 7, deleted: s.deleted,
	}
	switch r.IntN(3) {
	case 0: // a lease ends while its relay waits for the broker, and is not told
		s.slowLease, s.lateArrival = 600, 500
	case 1: // a relay stops while the network holds what it sent
		s.stop, s.cutOff, s.lateArrival = 1000, 300, 800
	default: // a former owner makes a key wait while the next one reads
		s.lanes, s.relays, s.keys, s.transactions, s.batch, s.uneven = 1, 2, 12, 180, 12, true
		s.kept, s.rejected, s.stopInFinish, s.lateRequest, s.slow = 1000, 500, 300, 1000, 50
	}
}

func (s *schedule) batchOf(slot int) int {
	if s.uneven && slot > 0 {
		return 1
	}
	return s.batch
}

// dice draws for one purpose. It does not matter who draws first.
func (s *schedule) dice(what string, n int) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what)) // a hash never fails
	return rand.New(rand.NewPCG(s.seed, h.Sum64()+uint64(n)*0x9e3779b97f4a7c15))
}

func happens(r *rand.Rand, chance int) bool { return r.IntN(1000) < chance }

// between draws a time that nobody else draws.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}
