package replica

import (
	"context"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// tied is a member of a group.
type tied struct {
	*chain
	mirror *mirror
	joined bool // it was waiting, and is no part of the batch yet
	// by are the keys without which it cannot be written, nulls the columns that can be NULL
	// meanwhile.
	by    []db.Key
	nulls []string
	// hopeless says that something else is in the way, too.
	hopeless bool
}

// missesParents notes the rows that a member points to and that are not there.
func (g *group) missesParents(ctx context.Context, tx transaction, m *tied) error {
	shape, row := m.mirror.shape.Load(), m.last().work.(*row)
	for _, p := range shape.parents {
		text := row.text(p.Column)
		if text == "" || text == "NULL" {
			continue
		}
		there, err := g.batch.present(ctx, tx, p, []string{text})
		if err != nil {
			return err
		}
		if there[text] {
			continue
		}
		key := m.mirror.parentKey(p, m.last().delivery)
		if key == (db.Key{}) {
			m.hopeless = true
		}
		if key != m.key { // a row may point to itself
			m.by = append(m.by, key)
		}
		m.mayLeave(shape, p.Column)
	}
	return nil
}

func (m *tied) mayLeave(shape *mirrorShape, column string) {
	if shape.nullable[column] {
		m.nulls = append(m.nulls, column)
	}
}

// meetsHolders notes the rows that hold a unique value of a member, and whose messages are here or
// wait.
func (g *group) meetsHolders(ctx context.Context, tx transaction, m *tied) error {
	mirror, row := m.mirror, m.last().work.(*row)
	for _, unique := range mirror.shape.Load().unique {
		var conditions []string
		for _, column := range unique {
			if text := row.text(column); text != "" && text != "NULL" {
				conditions = append(conditions, string(mirror.gen.AppendIdent(nil, column))+" = "+
					text)
			}
		}
		if len(conditions) != len(unique) {
			continue
		}
		condition := strings.Join(conditions, " AND ")
		var held bool
		err := tx.service().NewRaw("SELECT EXISTS (SELECT 1 FROM ? WHERE ? AND NOT (?))",
			mirror.table.SQLName,
			bun.Safe(condition), bun.Safe(mirror.where(row, mirror.shape.Load()))).Scan(ctx, &held)
		if err != nil || !held {
			return err
		}
		holder, err := g.holder(ctx, tx, m, condition)
		if err != nil {
			return err
		}
		if holder == nil {
			m.hopeless = true
			return nil
		}
		m.by = append(m.by, holder.key)
		for _, column := range unique {
			m.mayLeave(mirror.shape.Load(), column)
		}
	}
	return nil
}

// holder is the chain, among those that failed and those that wait, whose row the condition finds.
func (g *group) holder(
	ctx context.Context, tx transaction, m *tied, condition string,
) (*chain, error) {
	candidates, known := g.waiting[m.key.Model]
	if !known {
		for _, other := range g.members {
			if other.binding == m.binding {
				candidates = append(candidates, other.chain)
			}
		}
		found, err := tx.waitingIn(ctx, m.key.Model, maxTogether)
		if err != nil {
			return nil, err
		}
		chains, err := g.chainsOf(ctx, tx, slices.DeleteFunc(found, func(w applied.Waiting) bool {
			return g.members[w.Key] != nil
		}))
		if err != nil {
			return nil, err
		}
		candidates = append(candidates, chains...)
		g.waiting[m.key.Model] = candidates
	}
	mirror := m.mirror
	for _, c := range candidates {
		var holds bool
		err := tx.service().NewRaw("SELECT EXISTS (SELECT 1 FROM ? WHERE ? AND ?)",
			mirror.table.SQLName, bun.Safe(condition),
			bun.Safe(mirror.where(c.last().work.(*row), mirror.shape.Load()))).Scan(ctx, &holds)
		if err != nil {
			return nil, err
		}
		if holds {
			return c, nil
		}
	}
	return nil, nil
}
