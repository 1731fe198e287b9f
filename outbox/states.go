package outbox

import (
	"context"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Own returns the database with the outbox's tables.
func (b operated) Own() *db.Database { return b.own }

// Models returns the CQRS ids of the registered models.
func (b operated) Models() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	ids := make([]string, 0, len(b.byID))
	for id := range b.byID {
		ids = append(ids, id)
	}
	return ids
}

// States returns what replicas are to know of keys, as ledgers spell them.
func (b operated) States(ctx context.Context, model string, keys []string) ([]boxed.State, error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return nil, err
	}
	found := make(map[string]boxed.Instance, len(keys))
	if err := b.sentOf(ctx, m, m.rowsOfKeys(keys), true, found); err != nil {
		return nil, fmt.Errorf("outbox: read %s: %w", m.id, err)
	}
	var absent []string
	for _, key := range keys {
		if _, is := found[key]; !is {
			absent = append(absent, key)
		}
	}
	// What the ledger says now of a key that had no row a moment ago is true now, whatever happened
	// in between; of one that has a row by now it does not say that it is deleted.
	known, err := b.ledger.Known(ctx, b.db, m.id, absent)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	states := make([]boxed.State, len(keys))
	for i, key := range keys {
		if instance, is := found[key]; is {
			states[i].Instance = instance
			continue
		}
		states[i].Key, states[i].PK = key, stored.KeyJSON(m.table.PKs, key)
		if k := known[key]; k.Deleted {
			states[i].Deleted, states[i].Revision, states[i].Updated = true, k.Revision, k.Updated
		}
	}
	return states, nil
}

// rowsOfKeys are rows with nothing but the keys, of those that a row of the model can have.
func (m *model) rowsOfKeys(keys []string) []reflect.Value {
	rows := make([]reflect.Value, 0, len(keys))
	for _, key := range keys {
		if row, err := m.rowOfPK(stored.KeyJSON(m.table.PKs, key)); err == nil {
			rows = append(rows, row)
		}
	}
	return rows
}

// sentOf reads the states of rows that are there and are sent, as many at a time as can be held.
func (b operated) sentOf(
	ctx context.Context, m *model, rows []reflect.Value, withData bool,
	found map[string]boxed.Instance,
) error {
	for len(rows) > 0 {
		read, err := b.page(ctx, m, withData, func(q *bun.SelectQuery) *bun.SelectQuery {
			return q.Where("(?) IN (?)", keyColumns(m.table), m.keysOf(rows))
		})
		if err != nil {
			return err
		}
		for _, instance := range read.instances {
			found[instance.Key] = instance
		}
		if !read.cut {
			return nil
		}
		if rows, err = m.withoutRows(rows, read.rows); err != nil {
			return err
		}
	}
	return nil
}

// withoutRows leaves out the keys of rows that were read.
func (m *model) withoutRows(keys []reflect.Value, rows []record) (rest []reflect.Value, err error) {
	done := make(map[string]bool, len(rows))
	for _, row := range rows {
		_, key, _, err := m.keyOf(row)
		if err != nil {
			return nil, err
		}
		done[key] = true
	}
	for _, row := range keys {
		_, key, err := keyRead(m.table.PKs, row)
		if err != nil {
			return nil, err
		}
		if !done[key] {
			rest = append(rest, row)
		}
	}
	return rest, nil
}
