package replica

import (
	"cmp"
	"slices"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// chain is the messages of one key in one batch, in the order in which the gate sees them.
type chain struct {
	key     store.Key
	keyed   bool // the ledger has a place for the key
	binding *binding
	items   []*item

	// What fold and the application make of it, anew in every transaction:
	before  store.Applied // the ledger's row
	state   store.Applied // after the passed ones
	passed  []step        // the gate let them through, and nothing is known against them
	refused []failure     // the gate let them through, but they cannot be applied
	unread  bool          // nobody asked the ledger: the key is locked
	again   bool          // it has failed once in this transaction, and gets a second chance
}

// step is a message that changes the key.
type step struct {
	*item
	before  store.Applied
	outcome Outcome
}

func newChain(key store.Key, items []*item) *chain {
	c := &chain{key: key, binding: items[0].binding, items: items}
	_, c.keyed = items[0].key()
	if c.keyed {
		sortItems(items)
	}
	return c
}

// sortItems puts the messages of a key into the master's order, as far as it can be told: then duplicates and reordered
// ones that came together do no harm to those handlers that see every message. A forced SYNC knows no order, and Apply's caller has one.
func sortItems(items []*item) {
	timed := true
	for _, it := range items {
		if mayForce(it.message) || it.strict {
			return
		}
		timed = timed && !it.message.Updated.IsZero()
	}
	slices.SortStableFunc(items, func(a, b *item) int {
		if timed {
			if c := a.message.Updated.Compare(b.message.Updated); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.message.Revision, b.message.Revision)
	})
}

// fold lets the gate decide about each message, as if they came one by one.
func (c *chain) fold(ledger store.Applied) {
	c.before, c.state = ledger, ledger
	c.passed, c.refused, c.unread, c.again = nil, nil, false, false
	for _, it := range c.items {
		it.outcome, it.result, it.overtook = 0, nil, false
		if !c.keyed {
			c.refused = append(c.refused, failure{it, it.err, patienceWith(it.err)})
			continue
		}
		outcome := gate(c.state, it.message)
		switch {
		case !outcome.effective():
			it.outcome, it.overtook = outcome, outcome == Stale && isLater(it.message, c.state)
		case it.err != nil:
			c.refused = append(c.refused, failure{it, it.err, patienceWithHandler(it.err)})
		default:
			c.pass(it, outcome)
		}
	}
}

func (c *chain) pass(it *item, outcome Outcome) {
	it.outcome = outcome
	c.passed = append(c.passed, step{it, c.state, outcome})
	c.state = settled(c.state, it.message)
}

// drop takes back the last message that passed.
func (c *chain) drop() step {
	last := c.passed[len(c.passed)-1]
	c.passed = c.passed[:len(c.passed)-1]
	c.state = last.before
	return last
}

// last is the message that decides about the row.
func (c *chain) last() *item { return c.passed[len(c.passed)-1].item }

// created says that the key exists now and did not before, as far as the ledger knows.
func (c *chain) created() bool {
	return len(c.passed) > 0 && !c.state.Deleted && (c.before.Deleted || c.before.Revision == store.NeverApplied)
}

// removes says that the chain ends with the row gone.
func (c *chain) removes() bool { return c.last().message.Signal == envelope.Delete }

// rows are what a mirror has to write, in order: the last message only, unless one before it carries a column that the
// last does not.
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
