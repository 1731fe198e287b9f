package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// Rows may wait for each other: two that point to each other, two that exchange a unique value.
// Alone none of them can ever be written. So where a row cannot be written because of others whose
// messages are here or wait, all of them are written together: with constraints deferred where the
// database can do that, and else in two steps, of which the first leaves NULL what the others hold
// or are to bring.

// group is rows that wait for each other.
type group struct {
	batch   *batch
	members map[db.Key]*tied
	// waiting are the messages of a model that were looked at already.
	waiting map[string][]*chain
}

// maxTogether bounds a group.
const maxTogether = 100

// together applies what waits for each other, and takes it out of failed. The error is an outage.
func (b *batch) together(ctx context.Context, tx transaction, failed map[*chain]error) error {
	if b.apart {
		return nil
	}
	g := &group{batch: b, members: map[db.Key]*tied{}, waiting: map[string][]*chain{}}
	for c, err := range failed {
		if len(c.passed) == 0 || c.removes() || !waitsForOthers(err) {
			continue
		}
		if m, is := c.mirror(); is {
			g.members[c.key] = &tied{chain: c, mirror: m}
		}
	}
	if len(g.members) == 0 {
		return nil
	}
	var joined []*chain
	err := tx.savepoint(ctx, func(tx transaction) error {
		if err := g.gather(ctx, tx); err != nil {
			return err
		}
		if g.prune(); len(g.members) == 0 {
			return errNotTogether
		}
		joined = g.joined()
		return g.write(ctx, tx)
	})
	switch {
	case err == nil:
		for _, m := range g.members {
			delete(failed, m.chain)
		}
		b.chains = append(b.chains, joined...)
		return nil
	case errors.Is(err, errNotTogether):
		return nil
	case classOf(err) == outage:
		return err
	}
	for _, m := range g.members { // each keeps its own error
		if own, is := failed[m.chain]; is && len(m.by) > 0 {
			failed[m.chain] = fmt.Errorf("%w; it and key %q of model %q wait for each other, and "+
				"could not be written together: make the constraint DEFERRABLE (PostgreSQL), or "+
				"let its columns be NULL", own, m.by[0].Key, m.by[0].Model)
		}
	}
	return nil
}

var errNotTogether = &codeError{errors.New("nothing waits for each other")}

// waitsForOthers says that another row, or the lack of one, is what is wrong.
func waitsForOthers(err error) bool {
	var orphan *orphanError
	return errors.As(err, &orphan) || isUnique(err) || isForeignKey(err)
}

// isUnique says that another row holds a value that must be unique.
func isUnique(err error) bool {
	const unique, exclusion = "23505", "23P01"
	const sqliteUnique = 2067
	state := db.SQLState(err)
	return state == unique || state == exclusion || db.SQLiteCode(err) == sqliteUnique
}

// gather finds what the members wait for, and makes members of it, until there is nothing new.
func (g *group) gather(ctx context.Context, tx transaction) error {
	var next []*tied
	for _, m := range g.members {
		next = append(next, m)
	}
	for len(next) > 0 && len(g.members) <= maxTogether {
		var missing []db.Key
		for _, m := range next {
			if err := errors.Join(g.missesParents(ctx, tx, m),
				g.meetsHolders(ctx, tx, m)); err != nil {
				return err
			}
			for _, key := range m.by {
				if g.members[key] == nil && !slices.Contains(missing, key) {
					missing = append(missing, key)
				}
			}
		}
		found, err := tx.waitingOf(ctx, missing)
		if err != nil {
			return err
		}
		chains, err := g.chainsOf(ctx, tx, found)
		if err != nil {
			return err
		}
		next = next[:0]
		for _, c := range chains {
			if m, is := c.mirror(); is {
				joining := &tied{chain: c, mirror: m, joined: true}
				g.members[c.key] = joining
				next = append(next, joining)
			}
		}
	}
	return nil
}

// chainsOf makes chains of messages that wait, of those that the gate lets pass.
func (g *group) chainsOf(
	ctx context.Context, tx transaction, found []applied.Waiting,
) (chains []*chain, err error) {
	var keys []db.Key
	for _, w := range found {
		d := g.batch.engine.read(waited(context.WithoutCancel(ctx), nobody{}, w))
		if d.err != nil || d.binding == nil || d.foreign {
			continue
		}
		c := newChain(w.Key, []*delivery{d})
		if _, is := c.mirror(); is && c.keyed {
			chains, keys = append(chains, c), append(keys, w.Key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	ledger, err := tx.lockLedger(ctx, keys)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(chains, func(c *chain) bool {
		c.fold(ledger[c.key])
		return len(c.passed) == 0 || c.removes()
	}), nil
}

// prune takes out who waits for somebody that is no member, until nobody does.
func (g *group) prune() {
	for changed := true; changed; {
		changed = false
		for key, m := range g.members {
			alone := m.hopeless || len(m.by) == 0 && !m.joined
			for _, other := range m.by {
				alone = alone || g.members[other] == nil
			}
			if alone {
				delete(g.members, key)
				changed = true
			}
		}
	}
}

// joined are the members that were waiting.
func (g *group) joined() (chains []*chain) {
	for _, m := range g.members {
		if m.joined {
			chains = append(chains, m.chain)
		}
	}
	return chains
}

// write writes the members in one of the ways that there are.
func (g *group) write(ctx context.Context, tx transaction) error {
	chains := make([]*chain, 0, len(g.members))
	for _, m := range g.members {
		chains = append(chains, m.chain)
	}
	g.batch.sortByModel(chains)
	var err error
	if before, after := deferring(tx.service()); before != "" {
		err = tx.savepoint(ctx, func(tx transaction) error {
			if _, err := tx.service().ExecContext(ctx, before); err != nil {
				return err
			}
			if err := g.batch.write(ctx, tx, chains); err != nil {
				return err
			}
			missing, err := g.batch.orphans(ctx, tx, chains, errStillMissing)
			if err == nil && len(missing) > 0 {
				err = errStillMissing
			}
			if err != nil {
				return err
			}
			_, err = tx.service().ExecContext(ctx, after)
			return err
		})
		if err == nil || classOf(err) == outage {
			return err
		}
		// SQLite does not take it back with the savepoint
		if _, err := tx.service().ExecContext(ctx, after); err != nil {
			return err
		}
	}
	for _, c := range chains {
		if m := g.members[c.key]; len(m.nulls) > 0 {
			if err := m.mirror.save(ctx, tx.service(),
				[]*row{m.last().work.(*row).without(m.nulls)}); err != nil {
				return err
			}
		}
	}
	return g.batch.write(ctx, tx, chains)
}

var errStillMissing = &codeError{errors.New(
	"a row that the foreign key points to is still missing")}

// deferring are the statements around those that may break a constraint for a while.
func deferring(tx bun.Tx) (before, after string) {
	switch tx.Dialect().Name() {
	case dialect.PG:
		return "SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS ALL IMMEDIATE"
	case dialect.SQLite:
		return "PRAGMA defer_foreign_keys = ON", "PRAGMA defer_foreign_keys = OFF"
	default:
		return "", ""
	}
}

// without is the row with NULL in columns.
func (r *row) without(names []string) *row {
	other := *r
	other.values = slices.Clone(r.values)
	for i, f := range r.columns.fields {
		if i >= r.columns.keys && slices.Contains(names, f.Name) {
			other.values[i] = "NULL"
		}
	}
	return &other
}
