package simulation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/queue/memory"
)

// process is a relay's, from its start to its end. It stands between the relay and the database.
type process struct {
	*memory.Queue // the requests that no schedule disturbs

	world *world
	id    string // of the relay
	name  string // of this process, which no other has
	life  int    // how many others of its slot were before it
	well  bool   // nothing is drawn against it

	mu       sync.Mutex
	counts   map[string]int // how often each thing was done
	stopped  time.Time      // until when it stands still, as under SIGSTOP
	dead     bool
	replaced bool // dead, and another one has its id
}

var (
	errLost = errors.New("the connection to the database was lost")
	errDead = errors.New("the process is dead")
)

// count says how often it has done something before.
func (p *process) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.counts[what]
	p.counts[what]++
	return n
}

// kill ends the process: nothing leaves it any more.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

func (p *process) replace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replaced = p.dead
}

// stand makes the whole process stand still for a while.
func (p *process) stand(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = time.Now().Add(d)
}

// step takes its time, is held up while the process stands still, and fails in a dead one. own is a
// time that no other step has.
func (p *process) step(ctx context.Context, takes, own time.Duration) error {
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	for {
		p.mu.Lock()
		dead, left := p.dead, time.Until(p.stopped)
		p.mu.Unlock()
		switch {
		case dead:
			return errDead
		case left > 0:
			pause(left + own)
		default:
			return ctx.Err()
		}
	}
}

// ask sends a request to the database. What becomes of it is drawn.
func ask[T any](
	ctx context.Context, p *process, what string, request func() (T, error),
) (answer T, err error) {
	r, s := p.world.schedule.dice(p.name+what, p.count(what)), p.world.schedule
	there, back := between(r, 1, 3*time.Millisecond), between(r, 1, 3*time.Millisecond)
	own := between(r, 1, time.Millisecond)
	trouble := p.world.trouble() && !p.well
	slow := s.slow
	if what == "renew" || what == "balance" || what == "enter" {
		slow = max(slow, s.slowLease)
	}
	if trouble && happens(r, slow) {
		there = between(r, 0, ttl)
	}
	if trouble && happens(r, slow) {
		back = between(r, 0, ttl)
	}
	if trouble && happens(r, s.pause) {
		p.stand(between(r, 0, 3*ttl))
	}
	if trouble && what == "finish" && happens(r, s.stopInFinish) {
		// Until others have its lanes, and read.
		p.stand(between(r, ttl, 2*ttl))
	}
	lost, late := trouble && happens(r, s.requestLost), trouble && happens(r, s.lateRequest)
	later, mute := between(r, 1, ttl), trouble && happens(r, s.answerLost)
	var none T
	if err := p.step(ctx, there, own); err != nil || trouble && (p.world.away() || p.cutOff()) {
		if late && !errors.Is(err, errDead) { // it is on its way, though nobody waits for it any more
			p.world.running.Go(func() {
				pause(later)
				_, _ = request() // nobody hears
			})
		}
		return none, errors.Join(errLost, err)
	}
	if lost {
		return none, errLost
	}
	answer, err = request()
	p.world.log.Debug(p.name+what, "after", time.Since(p.world.began))
	if stepErr := p.step(ctx, back, own); stepErr != nil || mute {
		return none, errors.Join(errLost, stepErr)
	}
	return answer, err
}

// cutOff says that this process cannot reach the database, while others can.
func (p *process) cutOff() bool {
	const part = 3 * ttl / 2
	r := p.world.schedule.dice("partition"+p.name, int(time.Since(p.world.began)/part))
	return happens(r, p.world.schedule.partition)
}

// Enter, Balance, Renew, Others, Withdraw, SignOff and Leave are requests about the lanes.

func (p *process) Enter(
	ctx context.Context, relay string, ttl time.Duration,
) (queue.Ownership, error) {
	return ask(ctx, p, "enter", func() (queue.Ownership, error) {
		return p.Queue.Enter(ctx, relay, ttl)
	})
}

func (p *process) Balance(
	ctx context.Context, relay string, ttl time.Duration,
) (queue.Ownership, error) {
	return ask(ctx, p, "balance", func() (queue.Ownership, error) {
		return p.Queue.Balance(ctx, relay, ttl)
	})
}

func (p *process) Renew(
	ctx context.Context, relay string, ttl time.Duration,
) (queue.Ownership, error) {
	return ask(ctx, p, "renew", func() (queue.Ownership, error) {
		return p.Queue.Renew(ctx, relay, ttl)
	})
}

func (p *process) Others(ctx context.Context, relay string) (bool, error) {
	return ask(ctx, p, "others", func() (bool, error) { return p.Queue.Others(ctx, relay) })
}

func (p *process) Withdraw(ctx context.Context, relay string) (bool, error) {
	return ask(ctx, p, "withdraw", func() (bool, error) { return p.Queue.Withdraw(ctx, relay) })
}

func (p *process) SignOff(ctx context.Context, relay string) error {
	_, err := ask(ctx, p, "sign off", func() (any, error) { return nil, p.Queue.SignOff(ctx, relay) })
	return err
}

func (p *process) Leave(ctx context.Context, relay string, lanes []queue.Lane) error {
	_, err := ask(ctx, p, "leave", func() (any, error) {
		return nil, p.Queue.Leave(ctx, relay, lanes)
	})
	return err
}

// Glance, Claim, Writers, WaitingLanes and MakeDue are those of reading.

type claimed struct {
	messages []*queue.Claimed
	unread   []int
}

func (p *process) Glance(
	ctx context.Context, starts []queue.Start, perLane int, except queue.Except,
) ([]*queue.Claimed, []int, error) {
	return p.Claim(ctx, starts, perLane, except)
}

func (p *process) Claim(
	ctx context.Context, starts []queue.Start, perLane int, except queue.Except,
) ([]*queue.Claimed, []int, error) {
	starts = slices.Clone(starts) // a late request reads them when they have changed
	got, err := ask(ctx, p, "claim", func() (claimed, error) {
		messages, unread, err := p.Queue.Claim(ctx, starts, perLane, except)
		return claimed{messages, unread}, err
	})
	p.disorder(got.messages)
	return got.messages, got.unread, err
}

// disorder is what a database does that reads in another order than it was asked to.
func (p *process) disorder(messages []*queue.Claimed) {
	r := p.world.schedule.dice(p.name+"disorder", p.count("disorder"))
	if p.world.trouble() && !p.well && len(messages) > 1 && happens(r, p.world.schedule.disorder) {
		slices.Reverse(messages)
		slices.SortStableFunc(messages, func(a, b *queue.Claimed) int { return a.Lane - b.Lane })
	}
}

type writers struct {
	queue.Writers
	ok bool
}

func (p *process) Writers(ctx context.Context) (queue.Writers, bool, error) {
	if p.world.schedule.blind {
		return queue.Writers{}, false, nil
	}
	got, err := ask(ctx, p, "writers", func() (writers, error) {
		w, ok, err := p.Queue.Writers(ctx)
		return writers{w, ok}, err
	})
	return got.Writers, got.ok, err
}

func (p *process) WaitingLanes(ctx context.Context) (func(lane int) bool, error) {
	return ask(ctx, p, "waiting", func() (func(int) bool, error) { return p.Queue.WaitingLanes(ctx) })
}

func (p *process) MakeDue(ctx context.Context, keys []queue.Key) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := ask(ctx, p, "make due", func() (any, error) { return nil, p.Queue.MakeDue(ctx, keys) })
	return err
}

// Finish, FinishFree, Supersede and Compact are those of removal.

func (p *process) Finish(
	ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	_, err := ask(ctx, p, "finish", func() (any, error) {
		return nil, p.Queue.Finish(ctx, relay, lanes, done)
	})
	return err
}

func (p *process) FinishFree(
	ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	_, err := ask(ctx, p, "free", func() (any, error) {
		return nil, p.Queue.FinishFree(ctx, relay, lanes, done)
	})
	return err
}

func (p *process) Supersede(
	ctx context.Context, relay string, lanes []queue.Lane, list []queue.Superseding,
) ([]queue.Superseded, error) {
	return ask(ctx, p, "supersede", func() ([]queue.Superseded, error) {
		return p.Queue.Supersede(ctx, relay, lanes, list)
	})
}

func (p *process) Compact(
	ctx context.Context, relay string, lanes []queue.Lane, starts []queue.Start, perLane int,
	limit time.Duration,
) (queue.Compacted, error) {
	starts = slices.Clone(starts)
	return ask(ctx, p, "compact", func() (queue.Compacted, error) {
		return p.Queue.Compact(ctx, relay, lanes, starts, perLane, limit)
	})
}
