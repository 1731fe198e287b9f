package replica

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

var (
	schedules = flag.Int("replica.schedules", 3000, "how many schedules the simulation of batches runs")
	firstSeed = flag.Uint64("replica.seed", 1, "the seed of the first schedule; a failure names the one to replay")
)

// TestSimulation runs batches, the gate and the waiting room over memory: messages in any order, some
// twice or late, deletes, syncs, handlers that fail, transactions that fail, processes that die before
// and after their commits, and one process that gets in between another's reading and writing.
//
// Half of the schedules have a master of ours, and must end in its state. The others have messages that
// no master sends together, and every commit must be what the table of the wire format says.
func TestSimulation(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+uint64(*schedules) && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(t, seed)
			s.run()
			if t.Failed() {
				t.Logf("replay it with: go test ./replica -run TestSimulation -replica.schedules 1 -replica.seed %d -v", seed)
				for _, line := range s.told {
					t.Log(line)
				}
			}
		})
	}
}

// simulation is one schedule.
type simulation struct {
	t    *testing.T
	rand *rand.Rand
	room *memoryRoom
	told []string // what happened, for who looks into a failure

	mu       sync.Mutex
	returned []*attempt // to the broker, by goroutines that wait a while before

	ours     bool               // the messages are a master's of ours
	messages []*simulated       // by number
	pending  []*simulated       // in the broker
	calm     bool               // nothing but the messages fails any more
	process  *Replica           // of which one is alive
	alive    context.Context    // it
	kill     context.CancelFunc // it
	neighbor *Replica           // another one, which gets in between

	inHand map[db.Key][]*simulated // of the batch
	before map[db.Key]applied.Applied
	failed map[int]bool // messages that the handler refused, in the transaction or in the call before it
}

// simulated is a message, and how a handler meets it.
type simulated struct {
	*envelope.Message
	number int
	body   []byte
	fails  int   // how often yet
	with   error // nil for one that a handler likes
	dead   bool  // no try cures it
}

// The models, by how they are handled.
const (
	turn    = "turn"    // Handle
	newest  = "newest"  // HandleBatch
	outside = "outside" // HandleFunc
)

// thing is what the messages are about.
type thing struct {
	ID   int64 `bun:",pk"`
	Text string
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		t: t, rand: rand.New(rand.NewPCG(seed, 0)), room: newMemoryRoom(), failed: map[int]bool{},
		before: map[db.Key]applied.Applied{}, inHand: map[db.Key][]*simulated{},
	}
	s.ours = s.rand.IntN(2) == 0
	if s.ours {
		s.writeAsMaster()
	} else {
		s.writeAnything()
	}
	s.room.trouble = s.trouble
	s.neighbor = s.newProcess()
	s.start()
	return s
}

func (s *simulation) newProcess() *Replica {
	r := &Replica{running: make(chan struct{})}
	config := Config{Queue: "sim", Logger: slog.New(slog.DiscardHandler)}.withDefaults()
	require.NoError(s.t, config.validate())
	r.init(config)
	r.room = simulatedRoom{s.room, s}
	require.NoError(s.t, Handle(r, turn, func(_ context.Context, _ bun.Tx, e Event[thing]) error {
		return s.handle(e)
	}))
	require.NoError(s.t, HandleBatch(r, newest, func(_ context.Context, _ bun.Tx, events []Event[thing]) error {
		for _, e := range events {
			if err := s.handle(e); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(s.t, HandleFunc(r, outside, func(_ context.Context, e Event[thing]) error {
		s.interrupt(outside)
		return s.meet(e)
	}))
	require.NoError(s.t, r.start())
	return r
}

// start makes a new process in place of the last one.
func (s *simulation) start() {
	s.process = s.newProcess()
	s.process.crash = func(point string) error {
		if point == "folded" {
			s.interrupt(point)
		}
		return s.trouble(point)
	}
	s.alive, s.kill = context.WithCancel(context.Background())
}

func (s *simulation) say(format string, args ...any) {
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

func (s *simulation) fail(format string, args ...any) {
	s.say("WRONG: "+format, args...)
	s.t.Errorf(format, args...)
}

// run delivers everything, and lets time pass until nothing waits.
func (s *simulation) run() {
	s.pending = slices.Clone(s.messages)
	s.rand.Shuffle(len(s.pending), func(i, j int) { s.pending[i], s.pending[j] = s.pending[j], s.pending[i] })
	for step := 0; s.isBusy(); step++ {
		s.calm = step > 60
		if step > 500 {
			s.fail("%d messages are in the broker and %d wait, and it does not end", len(s.pending), len(s.room.waiting))
		}
		if s.t.Failed() {
			break
		}
		if len(s.pending) > 0 && s.rand.IntN(3) > 0 {
			s.deliver()
		} else {
			<-time.After(time.Duration(s.rand.IntN(90)) * time.Second) // of the bubble
			s.retry()
		}
		if s.alive.Err() != nil {
			s.say("a new process")
			s.start()
		}
	}
	s.kill()
	if s.ours && !s.t.Failed() {
		s.requireMastersState()
	}
}

// isBusy says that a message is in the broker, waits, or is about to be given back.
func (s *simulation) isBusy() bool {
	if s.collectReturned(); len(s.pending)+len(s.room.waiting) == 0 {
		<-time.After(returnPause + time.Second) // of the bubble
		s.collectReturned()
	}
	return len(s.pending)+len(s.room.waiting) > 0
}

// collectReturned has the broker take back what the process gave back, which it does in goroutines of
// its own: in the order of their numbers, so that a seed replays.
func (s *simulation) collectReturned() {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.returned, func(a, b *attempt) int { return cmp.Compare(a.place, b.place) })
	for _, a := range s.returned {
		m := s.messages[a.place]
		s.say("returned %s", m)
		if a.past.claimed == nil {
			s.pending = append(s.pending, m)
		}
	}
	s.returned = nil
}

// deliver gives the process some of the broker's messages.
func (s *simulation) deliver() {
	n := 1 + s.rand.IntN(min(len(s.pending), 6))
	var deliveries []*delivery
	for _, m := range s.pending[:n] {
		deliveries = append(deliveries, s.process.read(s.from(s.alive, m)))
		if !s.calm && s.rand.IntN(8) == 0 { // once more, some time
			s.pending = append(s.pending, m)
		}
	}
	s.pending = s.pending[n:]
	s.settle(s.process, deliveries)
}

func (s *simulation) from(ctx context.Context, m *simulated) delivery {
	return delivery{ctx: ctx, from: s, place: m.number, body: m.body, headers: m.Metadata()}
}

// retry tries what is due in the waiting room.
func (s *simulation) retry() {
	claimed, err := s.room.claimWaiting(s.alive, 1+s.rand.IntN(6), claimLease)
	if err != nil {
		return
	}
	var deliveries []*delivery
	for _, w := range claimed {
		d := waited(s.alive, s, w)
		d.place = s.numberIn(w.Body)
		deliveries = append(deliveries, s.process.read(d))
	}
	s.settle(s.process, deliveries)
}

func (s *simulation) numberIn(body []byte) int {
	for _, m := range s.messages {
		if string(m.body) == string(body) {
			return m.number
		}
	}
	s.fail("nobody sent %s", body)
	return 0
}

// settle has a process take deliveries, by key as its inbox would.
func (s *simulation) settle(r *Replica, deliveries []*delivery) {
	var slots []*slot
	byKey := map[db.Key]*slot{}
	inHand, calls := map[db.Key][]*simulated{}, map[db.Key]bool{}
	for _, d := range deliveries {
		m := s.messages[d.place]
		s.say("deliver %s to %p, tried %d times", m, r, d.past.attempts)
		if byKey[d.key] == nil {
			byKey[d.key] = &slot{key: d.key}
			slots = append(slots, byKey[d.key])
		}
		byKey[d.key].deliveries = append(byKey[d.key].deliveries, d)
		inHand[d.key], calls[d.key] = append(inHand[d.key], m), d.binding.manner.outside
	}
	outer, failed := s.inHand, s.failed
	take := func(slots ...*slot) {
		s.inHand, s.failed = map[db.Key][]*simulated{}, map[int]bool{}
		for _, slot := range slots {
			s.inHand[slot.key] = inHand[slot.key]
		}
		if len(slots) > 0 {
			r.settle(slots)
		}
	}
	for _, slot := range slots {
		if calls[slot.key] { // as the inbox, alone
			take(slot)
		}
	}
	take(slices.DeleteFunc(slots, func(slot *slot) bool { return calls[slot.key] })...)
	s.inHand, s.failed = outer, failed
}

// interrupt lets the other process take messages where one has read and not written yet.
func (s *simulation) interrupt(point string) {
	if s.calm || len(s.pending) == 0 || s.rand.IntN(6) > 0 {
		return
	}
	if n := len(s.room.open); n > 0 && len(s.room.open[n-1].undos) > 0 {
		return // it has locked what it read
	}
	s.say("at %s, another process:", point)
	s.calm = true
	m := s.pending[0]
	s.pending = s.pending[1:]
	before := s.before
	s.before = map[db.Key]applied.Applied{}
	s.settle(s.neighbor, []*delivery{s.neighbor.read(s.from(context.Background(), m))})
	s.before, s.calm = before, false
	s.say("at %s, that was it", point)
}

// trouble fails a step now and then, with the process or without.
func (s *simulation) trouble(step string) error {
	switch {
	case s.calm:
		return nil
	case s.rand.IntN(250) == 0:
		s.say("%s: the process dies", step)
		s.kill()
		return errors.New("the process is dead")
	case s.rand.IntN(60) == 0:
		s.say("%s: trouble", step)
		return errors.New("the connection is lost")
	}
	return nil
}

// handle is the service's handler in a transaction.
func (s *simulation) handle(e Event[thing]) error {
	if err := s.meet(e); err != nil {
		return err
	}
	text := e.Data.Text
	if e.Signal == envelope.Delete {
		text = ""
	}
	s.room.write(db.Key{Model: e.Model, Key: e.Key}, text)
	return nil
}

// meet is what a handler thinks of a message.
func (s *simulation) meet(e Event[thing]) error {
	n, err := strconv.Atoi(e.CorrelationID)
	if err != nil {
		s.fail("the message of an event is unknown: %v", err)
		return err
	}
	m := s.messages[n]
	delete(s.failed, n)
	if m.with == nil || m.fails == 0 && !m.dead {
		s.say("handled %s", m)
		return nil
	}
	m.fails--
	s.failed[n] = !discards(m.with)
	s.say("refused %s: %v", m, m.with)
	return m.with
}

// ended checks what an ack stands for, and gives the broker back what has none.
func (s *simulation) ended(attempts []*attempt) {
	for _, a := range attempts {
		if a.outcome == Returned {
			s.mu.Lock()
			s.returned = append(s.returned, a)
			s.mu.Unlock()
			continue
		}
		m := s.messages[a.place]
		s.say("ended %s: %s", m, a.outcome)
		if s.ours && !s.isKept(m, a.outcome) {
			s.fail("%s ended as %s, and it is neither in the ledger (%+v) nor waits nor is a dead letter",
				m, a.outcome, s.room.row(m.key()))
		}
	}
}

// isKept says that a message is where its outcome says it is.
func (s *simulation) isKept(m *simulated, outcome Outcome) bool {
	if outcome == DeadLettered {
		return slices.ContainsFunc(s.room.dead, func(l applied.DeadLetter) bool { return string(l.Body) == string(m.body) })
	}
	if covers(s.room.row(m.key()), m.Message) {
		return true
	}
	for _, w := range s.room.sorted() {
		if w.Key == m.key() && (w.Revision == m.Revision || covers(w.Applied, m.Message)) {
			return outcome == Waiting || outcome == Stale // by itself, or something newer stands for it
		}
	}
	return false
}

func (m *simulated) key() db.Key { return db.Key{Model: m.Model, Key: m.Key} }

func (m *simulated) String() string {
	return fmt.Sprintf("%d (%s %s %s revision %d at %s)",
		m.number, m.Signal, m.Model, m.Key, m.Revision, m.Updated.Format("05.000"))
}

// simulatedRoom tells the simulation of transactions.
type simulatedRoom struct {
	*memoryRoom
	s *simulation
}

func (r simulatedRoom) transact(
	ctx context.Context, l db.BatchLimits, use func(context.Context, transaction) error,
) error {
	s := r.s
	committed := false
	before := s.room.trouble
	s.room.trouble = func(step string) error {
		if step == "committed" {
			committed = true
			s.checkCommit()
		}
		return before(step)
	}
	defer func() { s.room.trouble = before }()
	for key, messages := range s.inHand {
		s.before[key] = s.room.row(key)
		for _, m := range messages {
			if m.Model != outside {
				delete(s.failed, m.number)
			}
		}
	}
	err := r.memoryRoom.transact(ctx, l, use)
	s.say("transaction: committed %t, %v", committed, err)
	return err
}
