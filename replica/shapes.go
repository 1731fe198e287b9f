package replica

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/db"
)

// tableShapes is what the catalog says about the tables of the mirrors. It is read once, with the
// first batch.
type tableShapes struct {
	mu      sync.Mutex
	loaded  bool
	checked bool       // CheckTables has found nothing
	sorted  []*binding // parents before their children, else as registered
	mirrors []*mirror  // those of sorted
	parent  map[string]bool
}

// parent is a registered or foreign table that a mirror's column points to.
type parent struct {
	catalog.Reference
	model string // empty where no model is mirrored into the table
}

// loadShapes reads the shapes of the tables, unless that is done.
func (b *batch) loadShapes(ctx context.Context) error {
	s := &b.engine.shapes
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded || b.engine.staleShapes() {
		if err := s.load(ctx, b.engine); err != nil {
			return err
		}
	}
	b.sorted, b.mirrors, b.isParent = s.sorted, s.mirrors, s.parent
	return nil
}

// mirrors are the mirrors among the models, as registered.
func (e *engine) mirrors() iter.Seq[*mirror] {
	return func(yield func(*mirror) bool) {
		for _, b := range e.order {
			if m, is := b.mirror(); is && !yield(m) {
				return
			}
		}
	}
}

// staleShapes says that a table may have been changed since its shape was read.
func (e *engine) staleShapes() (stale bool) {
	for m := range e.mirrors() {
		if m.stale.Swap(false) {
			stale = true
		}
	}
	return stale
}

func (s *tableShapes) load(ctx context.Context, e *engine) error {
	models := map[string]string{} // table → model
	complete := true
	shapes := map[*mirror]catalog.TableShape{}
	for m := range e.mirrors() {
		shape, err := e.tables.TableShape(ctx, e.db, string(m.table.SQLName), m.table.Name)
		if err != nil {
			return err
		}
		complete = complete && shape.Name != ""
		shapes[m] = shape
		for _, child := range m.children {
			childShape, err := e.tables.TableShape(ctx, e.db, string(child.table.SQLName),
				child.table.Name)
			if err != nil {
				return err
			}
			child.known.shape.Store(newMirrorShape(e.db, child.table, childShape))
		}
		models[shape.Name] = m.model
	}
	s.parent = map[string]bool{}
	for m, shape := range shapes {
		known := newMirrorShape(e.db, m.table, shape)
		for _, ref := range shape.References {
			model := models[ref.Table]
			known.parents = append(known.parents, parent{ref, model})
			s.parent[model] = true
		}
		m.shape.Store(known)
	}
	s.sorted, s.mirrors = sortModels(e), nil
	for _, b := range s.sorted {
		if m, is := b.mirror(); is {
			s.mirrors = append(s.mirrors, m)
		}
	}
	s.loaded = complete
	return nil
}

// sortModels puts parents before children. Tables that point at each other stay as registered:
// their messages find each other by waiting.
func sortModels(e *engine) (sorted []*binding) {
	visited := map[*binding]bool{}
	var visit func(*binding)
	visit = func(b *binding) {
		if visited[b] {
			return
		}
		visited[b] = true
		if m, is := b.mirror(); is {
			for _, p := range m.shape.Load().parents {
				if e.models[p.model] != nil {
					visit(e.models[p.model])
				}
			}
		}
		sorted = append(sorted, b)
	}
	for _, b := range e.order {
		visit(b)
	}
	return sorted
}

// orphans finds the chains whose rows point to rows that are not there. The error is an outage.
func (b *batch) orphans(
	ctx context.Context, tx transaction, chains []*chain, cause error,
) (map[*chain]error, error) {
	orphans := map[*chain]error{}
	for _, m := range b.mirrors {
		for _, p := range m.shape.Load().parents {
			var pointing []*chain
			var values []string
			for _, c := range chains {
				if c.binding != m.binding || orphans[c] != nil || c.removes() {
					continue
				}
				if text := c.last().work.(*row).text(p.Column); text != "" && text != "NULL" {
					pointing, values = append(pointing, c), append(values, text)
				}
			}
			there, err := b.present(ctx, tx, p, values)
			if err != nil {
				return nil, err
			}
			for i, c := range pointing {
				if !there[values[i]] {
					orphans[c] = orphaned(m, p, c.last().delivery, values[i], cause)
				}
			}
		}
	}
	return orphans, nil
}

// orphaned says which row a message waits for. The database's own error is about another message of
// the transaction, perhaps.
func orphaned(m *mirror, p parent, d *delivery, value string, cause error) error {
	return &orphanError{parent: m.parentKey(p, d), err: fmt.Errorf(
		"foreign key: %s.%s is %.100s, and table %s has no row whose %s is that: it waits for it%s",
		m.table.Name, p.Column, value, p.Table, p.Target, withState(cause))}
}

// withState is the database's code for an error, as a remark.
func withState(err error) string {
	if state := db.SQLState(err); state != "" {
		return " (SQLSTATE " + state + ")"
	}
	return ""
}

// present says which of the values, as SQL, the table that p points to has.
func (b *batch) present(
	ctx context.Context, tx transaction, p parent, values []string,
) (map[string]bool, error) {
	there, db := map[string]bool{}, tx.service()
	distinct := slices.Compact(slices.Sorted(slices.Values(values)))
	const terms = 200 // SQLite takes 500 in a compound SELECT
	for chunk := range slices.Chunk(distinct, terms) {
		query := make([]byte, 0, 64*len(chunk))
		for i, value := range chunk {
			if i > 0 {
				query = append(query, " UNION ALL "...)
			}
			query = b.engine.db.QueryGen().AppendQuery(query,
				"SELECT ? AS i, EXISTS (SELECT 1 FROM ? WHERE ? = ?) AS found",
				i, tableName(db, p), bun.Ident(p.Target), bun.Safe(value))
		}
		var rows []struct {
			I     int
			Found bool
		}
		if err := db.NewRaw("?", bun.Safe(query)).Scan(ctx, &rows); err != nil {
			return nil, err
		}
		for _, row := range rows {
			there[chunk[row.I]] = row.Found
		}
	}
	return there, nil
}
