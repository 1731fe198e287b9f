package replica

import (
	"context"
	"slices"

	"github.com/cqrsync/cqrsync/internal/applied"
)

// plan is what the chains of mirrors and batch handlers come to.
type plan struct {
	rows   map[*mirror][][]*row // of each key, in order
	events map[*newestTogether][]*attempt
}

func (p *plan) addRows(m *mirror, c *chain) {
	rows, known := c.rows(), c.before.Revision != applied.NeverApplied && !c.before.Deleted
	for _, r := range rows {
		r.known = known
	}
	p.rows[m] = append(p.rows[m], rows)
}

// write applies the chains of mirrors and batch handlers: deletes first, so that unique values are
// free, children before their parents; then saves, parents before their children.
func (b *batch) write(ctx context.Context, tx transaction, chains []*chain) error {
	p := &plan{rows: map[*mirror][][]*row{}, events: map[*newestTogether][]*attempt{}}
	for _, c := range chains {
		if len(c.passed) > 0 {
			c.binding.applier.(together).plan(p, c)
		}
	}
	if err := b.writeRows(ctx, tx, p); err != nil {
		return err
	}
	for _, model := range b.sorted {
		if h, is := model.applier.(*newestTogether); is && len(p.events[h]) > 0 {
			if err := b.handleTogether(ctx, tx, h, p.events[h]); err != nil {
				return err
			}
		}
	}
	return b.checkDeferred(ctx, tx)
}

// writeRows writes the rows of mirrors, the first ones of all keys before the second ones.
func (b *batch) writeRows(ctx context.Context, tx transaction, p *plan) error {
	for round := 0; ; round++ {
		more := false
		for _, m := range slices.Backward(b.mirrors) {
			deleted := pick(p.rows[m], round, true)
			if len(deleted) == 0 {
				continue
			}
			if err := m.remove(ctx, tx.service(), deleted); err != nil {
				return err
			}
			more = true
		}
		for _, m := range b.mirrors {
			saved := pick(p.rows[m], round, false)
			if len(saved) == 0 {
				continue
			}
			if err := m.save(ctx, tx.service(), saved); err != nil {
				return err
			}
			more = true
		}
		if !more {
			return nil
		}
	}
}

// checkDeferred finds what would make the COMMIT fail. SQLite checks deferred foreign keys only
// then, and says of none whose it was. It reads all tables, and so is for batches that failed so
// before.
func (b *batch) checkDeferred(ctx context.Context, tx transaction) error {
	if b.violations < 0 {
		return nil
	}
	n, err := tx.violations(ctx)
	if err == nil && n > b.violations {
		err = errStillMissing
	}
	return err
}

// pick are the rows of a round that are, or are not, deleted.
func pick(chains [][]*row, round int, deleted bool) (picked []*row) {
	for _, rows := range chains {
		if round < len(rows) && rows[round].deleted == deleted {
			picked = append(picked, rows[round])
		}
	}
	return picked
}
