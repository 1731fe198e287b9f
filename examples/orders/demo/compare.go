package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/examples/orders/stats"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
)

// Databases are the three that a demo compares.
type Databases struct {
	Orders, Webhooks, Stats *bun.DB
}

// Comparison is how the replicas stand to the master.
type Comparison struct {
	Orders, Webhooks, Stats int      // rows; exact when there is no difference
	Differences             []string // at most as many as were asked for
}

// Compare holds every row of both replicas against the master's, and the master's against theirs.
// It reads the tables side by side in order of id, page by page, and stops after limit differences.
func (d Databases) Compare(ctx context.Context, limit int) (Comparison, error) {
	var c Comparison
	var err error
	c.Orders, c.Webhooks, err = c.merge("webhooks",
		d.masterRows(ctx, asWebhooks), d.webhooksRows(ctx), limit)
	if err == nil {
		_, c.Stats, err = c.merge("stats", d.masterRows(ctx, asStats), d.statsRows(ctx), limit)
	}
	return c, err
}

// row is one order as text: equal rows are equal texts.
type row struct {
	id   int64
	text string
}

type rows = iter.Seq2[row, error]

// merge walks through both sides in order of id and notes what only
// one has, or both have differently.
func (c *Comparison) merge(
	replica string, masters, copies rows, limit int,
) (inMaster, inReplica int, err error) {
	nextMaster, stopMaster := iter.Pull2(masters)
	defer stopMaster()
	nextCopy, stopCopy := iter.Pull2(copies)
	defer stopCopy()

	master, masterErr, hasMaster := nextMaster()
	copied, copyErr, hasCopy := nextCopy()
	for (hasMaster || hasCopy) && len(c.Differences) < limit {
		if err := errors.Join(masterErr, copyErr); err != nil {
			return inMaster, inReplica, err
		}
		takeMaster := hasMaster && (!hasCopy || master.id <= copied.id)
		takeCopy := hasCopy && (!hasMaster || copied.id <= master.id)
		switch {
		case !takeCopy:
			c.differ("%s: order %d is missing: %s", replica, master.id, master.text)
		case !takeMaster:
			c.differ("%s: order %d is not in orders: %s", replica, copied.id, copied.text)
		case master.text != copied.text:
			c.differ("%s: order %d is\n    %s, in orders it is\n    %s",
				replica, master.id, copied.text, master.text)
		}
		if takeMaster {
			inMaster++
			master, masterErr, hasMaster = nextMaster()
		}
		if takeCopy {
			inReplica++
			copied, copyErr, hasCopy = nextCopy()
		}
	}
	return inMaster, inReplica, nil
}

func (c *Comparison) differ(format string, args ...any) {
	c.Differences = append(c.Differences, fmt.Sprintf(format, args...))
}

func (d Databases) masterRows(ctx context.Context, as func(orders.Order) row) rows {
	return paged(as, func(after int64) ([]orders.Order, error) {
		return orders.Page(ctx, d.Orders, after, pageSize)
	})
}

func (d Databases) webhooksRows(ctx context.Context) rows {
	return paged(func(o webhooks.Order) row {
		o.CreatedAt, o.UpdatedAt = exact(o.CreatedAt), exact(o.UpdatedAt)
		slices.SortFunc(o.Lines, func(a, b webhooks.Line) int { return cmp.Compare(a.ID, b.ID) })
		o.Revision = 0 // the ledger's, not the master's row's
		return asRow(o.ID, o)
	}, page[webhooks.Order](ctx, d.Webhooks))
}

func (d Databases) statsRows(ctx context.Context) rows {
	return paged(func(o stats.Order) row {
		o.CreatedAt = exact(o.CreatedAt)
		return asRow(o.ID, o)
	}, page[stats.Order](ctx, d.Stats))
}

// asWebhooks is what Webhooks should have of an order: everything.
func asWebhooks(o orders.Order) row {
	lines := []webhooks.Line{}
	for _, l := range o.Lines {
		lines = append(lines, webhooks.Line{
			ID: l.ID, OrderID: l.OrderID, SKU: l.SKU, Quantity: l.Quantity, Price: l.Price,
		})
	}
	return asRow(o.ID, webhooks.Order{
		ID: o.ID, Customer: o.Customer, Status: o.Status, Total: o.Total,
		CreatedAt: exact(o.CreatedAt), UpdatedAt: exact(o.UpdatedAt), Lines: lines,
	})
}

// asStats is what Stats should have of an order: the columns it mirrors.
func asStats(o orders.Order) row {
	return asRow(o.ID, stats.Order{
		ID: o.ID, Status: o.Status, Total: o.Total, CreatedAt: exact(o.CreatedAt),
	})
}

// exact is the instant alone, without the zone it was read in.
func exact(t time.Time) time.Time { return t.UTC() }

func asRow(id int64, order any) row {
	text, err := json.Marshal(order)
	if err != nil {
		text = []byte(err.Error()) // a year beyond 9999; it differs from every order
	}
	return row{id, string(text)}
}

const pageSize = 500

// page reads the next pageSize rows of a replica's table.
func page[T any](ctx context.Context, db *bun.DB) func(after int64) ([]T, error) {
	return func(after int64) (rows []T, err error) {
		err = db.NewSelect().Model(&rows).Where("id > ?", after).OrderExpr("id").Limit(pageSize).Scan(ctx)
		return rows, err
	}
}

// paged makes one sequence of a table's pages, so that a comparison holds a page
// in memory and no transaction open.
func paged[T any](as func(T) row, read func(after int64) ([]T, error)) rows {
	return func(yield func(row, error) bool) {
		var last int64 = -math.MaxInt64 // a copy may have what no order could be
		for {
			page, err := read(last)
			if err != nil {
				yield(row{}, err)
				return
			}
			for _, one := range page {
				next := as(one)
				last = next.id
				if !yield(next, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}
