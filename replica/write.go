package replica

import (
	"context"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
)

// write applies the chains of mirrors and batch handlers: deletes first, so that unique values are free, children before
// their parents; then saves, parents before their children.
func (b *batch) write(ctx context.Context, tx bun.Tx, chains []*chain) error {
	rows := map[*binding][][]*row{}
	batches := map[*binding][]*item{}
	for _, c := range chains {
		switch {
		case len(c.passed) == 0:
		case c.binding.mirror != nil:
			written, known := c.rows(), c.before.Revision != store.NeverApplied && !c.before.Deleted
			for _, r := range written {
				r.known = known
			}
			rows[c.binding] = append(rows[c.binding], written)
		case c.binding.handleBatch != nil:
			batches[c.binding] = append(batches[c.binding], c.last())
		}
	}
	for round := 0; ; round++ {
		more := false
		for _, model := range slices.Backward(b.sorted) {
			deleted := pick(rows[model], round, true)
			if err := model.remove(ctx, tx, deleted); err != nil {
				return err
			}
			more = more || len(deleted) > 0
		}
		for _, model := range b.sorted {
			saved := pick(rows[model], round, false)
			if err := model.save(ctx, tx, saved); err != nil {
				return err
			}
			more = more || len(saved) > 0
		}
		if !more {
			break
		}
	}
	for _, model := range b.sorted {
		if len(batches[model]) > 0 {
			if err := b.handleTogether(ctx, tx, model, batches[model]); err != nil {
				return err
			}
		}
	}
	return b.checkDeferred(ctx, tx)
}

// checkDeferred finds what would make the COMMIT fail. SQLite checks deferred foreign keys only then, and
// says of none whose it was. It reads all tables, and so is for batches that failed so before.
func (b *batch) checkDeferred(ctx context.Context, tx bun.Tx) error {
	if b.violations < 0 {
		return nil
	}
	n, err := violations(ctx, tx)
	if err == nil && n > b.violations {
		err = errStillMissing
	}
	return err
}

func violations(ctx context.Context, tx bun.Tx) (n int, err error) {
	err = tx.NewRaw("SELECT count(*) FROM pragma_foreign_key_check").Scan(ctx, &n)
	return n, err
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

func (b *binding) save(ctx context.Context, tx bun.Tx, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	return b.mirror.save(ctx, tx, rows)
}

func (b *binding) remove(ctx context.Context, tx bun.Tx, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	return b.mirror.remove(ctx, tx, rows)
}
