package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/stored"
)

// Instance is one entity as its replicas are to know it.
type Instance struct {
	// PK is the primary key as the wire has it, Key the text by which ledgers know it.
	PK  json.RawMessage
	Key string
	// Revision and Updated are the ledger's: what the newest message of the key said, or is about to say.
	Revision int64
	Updated  time.Time
	// Data is instance_data without revision and time (see envelope.Stamp); nil where it was not asked for.
	Data json.RawMessage
}

// Selection says which instances of a model to read.
type Selection struct {
	// Where narrows the query; nil takes all. The query's model is the registered one.
	Where func(*bun.SelectQuery) *bun.SelectQuery
	// After is the primary key, as JSON, of the instance to go on after; nil begins with the first.
	After json.RawMessage
	// PageSize is how many rows are read, and held in memory, at once. Default 1000. Of large rows
	// Instances reads fewer: some megabytes, or one row.
	PageSize int
	// Bad, if set, is called for each row that cannot be sent, and the others go on: a value that the
	// wire has no form for, a key that is none, a Serializer's error. pk is as the wire would have it.
	// Without Bad the first such row ends the iteration.
	Bad func(pk json.RawMessage, err error)
}

const defaultPage = 1000

// Model returns the bun table of a registered model.
func (b *Box) Model(model string) (*schema.Table, error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return nil, err
	}
	return m.table, nil
}

func (b *Box) modelOfID(id string) (*model, error) {
	if err := b.registrations(); err != nil {
		return nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if m := b.byID[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("outbox: model %q is not registered", id)
}

// Instances reads the instances of a model with their state, page by page in the order of the primary key, while writes
// go on. Each page is one snapshot of rows, relations and ledger, so that no state carries another one's revision.
// Rows that Filter keeps from replicas are left out; rows that were there before cqrsync, and were not written since, have revision 0 and the time 1970.
//
// A page may be empty. The iteration ends with the first error.
func (b *Box) Instances(ctx context.Context, model string, s Selection) iter.Seq2[[]Instance, error] {
	return b.pages(ctx, model, s, true)
}

// Revisions is Instances without Data and Updated, and faster.
func (b *Box) Revisions(ctx context.Context, model string, s Selection) iter.Seq2[[]Instance, error] {
	return b.pages(ctx, model, s, false)
}

// selectRows reads whole rows with their relations, or primary keys only. cut says that there were
// more rows than are held at once.
func (m *model) selectRows(
	ctx context.Context, tx bun.IDB, whole bool, narrow func(*bun.SelectQuery) *bun.SelectQuery,
) (records []record, cut bool, err error) {
	if whole {
		return m.scanWhole(ctx, tx, narrow, unlocked, pageBytes)
	}
	rows := stored.Of(m.table)
	query := narrow(tx.NewSelect().Model(rows.Model()))
	records, err = scan(ctx, query.ColumnExpr("?", keyColumns(m.table)), rows)
	return records, false, err
}

func unlocked(q *bun.SelectQuery) *bun.SelectQuery { return q }

// unwritten is the time of a row that no captured transaction has written. Any real one is later.
var unwritten = time.Unix(0, 0).UTC()

// instances joins rows with their ledger rows.
func (b *Box) instances(
	ctx context.Context, tx bun.IDB, m *model, rows []record, withData bool,
) ([]Instance, error) {
	changes := make([]change, 0, len(rows))
	keys := make([]string, 0, len(rows))
	for _, row := range rows {
		if m.filter != nil && !m.filter(row.Value) {
			continue
		}
		pk, key, _, err := m.keyOf(row)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		changes = append(changes, change{mark: &mark{key: key, pk: pk}, row: row, outcome: saved})
	}
	known, err := b.ledger.Known(ctx, tx, m.id, keys)
	if err != nil {
		return nil, err
	}
	states := make([]json.RawMessage, len(changes))
	if withData {
		if states, err = m.states(ctx, tx, changes); err != nil {
			return nil, err
		}
	}
	instances := make([]Instance, len(changes))
	for i, c := range changes {
		k, found := known[c.mark.key]
		if !found {
			k.Updated = unwritten
		}
		instances[i] = Instance{PK: c.mark.pk, Key: c.mark.key, Revision: k.Revision, Updated: k.Updated, Data: states[i]}
	}
	return instances, nil
}
