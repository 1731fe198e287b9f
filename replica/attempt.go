package replica

import (
	"errors"
	"sync"
	"time"
)

// attempt is one try to apply a delivery: each transaction makes new ones.
type attempt struct {
	*delivery
	outcome  Outcome
	result   error     // of Returned: why
	failed   bool      // it cannot be applied in this transaction
	overtook bool      // it is stale though it is later than what the ledger has
	next     *delivery // to be tried from memory after a while, in place of an end
}

var errStopped = errors.New("stopped before the message was applied")

// deliverer submits deliveries and is told what became of them; of a transaction's together, so
// that their acks cost little.
type deliverer interface{ ended(attempts []*attempt) }

// countdown is a deliverer that waits for all of its deliveries.
type countdown struct{ sync.WaitGroup }

func (c *countdown) ended(attempts []*attempt) { c.Add(-len(attempts)) }

// results is a deliverer that waits for all of its deliveries, and keeps what became of them by
// their places.
type results struct {
	countdown
	all []Result
}

func newResults(n int) *results {
	r := &results{all: make([]Result, n)}
	r.Add(n)
	return r
}

func (r *results) ended(attempts []*attempt) {
	for _, a := range attempts {
		r.all[a.place] = Result{a.outcome, a.outcome.effective(), a.result}
	}
	r.countdown.ended(attempts)
}

// nobody waits for what becomes of a message.
type nobody struct{}

func (nobody) ended([]*attempt) {}

// submit takes deliveries in. Each is ended in time, by its from.
func (e *engine) submit(deliveries ...*delivery) {
	ours := make([]*delivery, 0, len(deliveries))
	for _, d := range deliveries {
		if d.foreign {
			e.end(&attempt{delivery: d, outcome: Ignored})
		} else {
			ours = append(ours, d)
		}
	}
	e.inbox.add(ours...)
}

// end settles an attempt whose outcome is known, once.
func (e *engine) end(a *attempt) { e.endAll([]*attempt{a}) }

// endAll settles attempts whose outcome is known, once.
func (e *engine) endAll(attempts []*attempt) {
	byDeliverer, now := make(map[deliverer][]*attempt, 1), time.Now()
	for _, a := range attempts {
		e.count(a.outcome)
		if a.outcome.effective() && a.binding != nil {
			a.binding.moved(a.message.Updated)
			e.counts.applied(a.message, now)
		}
		byDeliverer[a.from] = append(byDeliverer[a.from], a)
	}
	for from, attempts := range byDeliverer {
		from.ended(attempts)
	}
}

// returnPause is how long a message that could not even be kept stays here before the broker has it
// back, and at once delivers it again.
const returnPause = 2 * time.Second

func (e *engine) endLater(a *attempt) {
	timer := time.NewTimer(returnPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.ctx.Done():
	}
	e.end(a)
}
