package replica

import (
	"cmp"
	"slices"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// chain is the messages of one key in one batch, in the order in which the gate sees them.
type chain struct {
	key        db.Key
	keyed      bool // the ledger has a place for the key
	binding    *binding
	deliveries []*delivery

	try // anew in every transaction
}

// try is what one transaction makes of a chain.
type try struct {
	attempts []*attempt      // one for each delivery
	before   applied.Applied // the ledger's row
	state    applied.Applied // after the passed ones
	passed   []step          // the gate let them through, and nothing is known against them
	unread   bool            // nobody asked the ledger: the key is locked
	again    bool            // it has failed once in this transaction, and gets a second chance
}

// step is a message that changes the key.
type step struct {
	*attempt
	before applied.Applied
}

func newChain(key db.Key, deliveries []*delivery) *chain {
	first := deliveries[0]
	c := &chain{key: key, keyed: first.keyed, binding: first.binding, deliveries: deliveries}
	if c.keyed {
		sortDeliveries(deliveries)
	}
	return c
}

// sortDeliveries puts the messages of a key into the master's order, as far as it can be told: then
// duplicates and reordered ones that came together do no harm to those handlers that see every
// message. A forced SYNC knows no order, and Apply's caller has one.
func sortDeliveries(deliveries []*delivery) {
	timed := true
	for _, d := range deliveries {
		if mayForce(d.message) || d.strict {
			return
		}
		timed = timed && !d.message.Updated.IsZero()
	}
	slices.SortStableFunc(deliveries, func(a, b *delivery) int {
		if timed {
			if c := a.message.Updated.Compare(b.message.Updated); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.message.Revision, b.message.Revision)
	})
}

// begin forgets the try before.
func (c *chain) begin(ledger applied.Applied) {
	c.try = try{attempts: make([]*attempt, len(c.deliveries)), before: ledger, state: ledger}
	all := make([]attempt, len(c.deliveries))
	for i, d := range c.deliveries {
		all[i].delivery = d
		c.attempts[i] = &all[i]
	}
}

// fold lets the gate decide about each message, as if they came one by one, and returns those that
// it lets through and that cannot be applied.
func (c *chain) fold(ledger applied.Applied) (refused []failure) {
	c.begin(ledger)
	if c.keyed {
		return c.decide()
	}
	for _, a := range c.attempts {
		a.failed = true
		refused = append(refused, newFailure(a, a.err, classOf(a.err)))
	}
	return refused
}

// decide lets the gate decide about the messages that have not failed, and returns those that fail
// because of what is known of them.
func (c *chain) decide() (refused []failure) {
	c.state, c.passed = c.before, nil
	for _, a := range c.attempts {
		if a.failed {
			continue
		}
		outcome := gate(c.state, a.message)
		switch {
		case !outcome.effective():
			c.reject(a, outcome)
		case a.err != nil:
			a.failed = true
			refused = append(refused, newFailure(a, a.err, classOfHandlers(a.err)))
		default:
			c.pass(a, outcome)
		}
	}
	return refused
}

// reject notes that the gate lets a message have no effect.
func (c *chain) reject(a *attempt, outcome Outcome) {
	a.outcome, a.overtook = outcome, outcome == Stale && isLater(a.message, c.state)
}

func (c *chain) pass(a *attempt, outcome Outcome) {
	a.outcome = outcome
	c.passed = append(c.passed, step{a, c.state})
	c.state = settled(c.state, a.message)
}

// drop takes back the last message that passed.
func (c *chain) drop() step {
	last := c.passed[len(c.passed)-1]
	c.passed = c.passed[:len(c.passed)-1]
	c.state = last.before
	return last
}

// last is the message that decides about the row.
func (c *chain) last() *attempt { return c.passed[len(c.passed)-1].attempt }

// created says that the key exists now and did not before, as far as the ledger knows.
func (c *chain) created() bool {
	return len(c.passed) > 0 && !c.state.Deleted && (c.before.Deleted ||
		c.before.Revision == applied.NeverApplied)
}

// removes says that the chain ends with the row gone.
func (c *chain) removes() bool { return c.last().message.Signal == envelope.Delete }

// rows are what a mirror has to write, in order: the last message only, unless one before it
// carries a column that the last does not.
func (c *chain) rows() []*row {
	last := c.last().work.(*row)
	first := len(c.passed) - 1
	if last.deleted {
		return []*row{last}
	}
	for i := first - 1; i >= 0; i-- {
		earlier := c.passed[i].work.(*row)
		if earlier.deleted {
			if !last.columns.whole {
				first = i // or the new row would inherit what the last ones do not carry
			}
			break
		}
		if earlier.columns != last.columns {
			first = i
		}
	}
	rows := make([]*row, 0, 1)
	for _, s := range c.passed[first:] {
		rows = append(rows, s.work.(*row))
	}
	return rows
}
