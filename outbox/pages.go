package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
)

const (
	// pageBytes is how many bytes of column values are read at once, if the first row is not
	// larger: a page is held as rows and as states, and while one is written the next is read.
	pageBytes = 2 << 20
	// firstPage is how many whole rows are read at once before their size is known.
	firstPage = 500
)

// page is what is read in one snapshot.
type page struct {
	instances []boxed.Instance
	rows      []record // those that Filter, and no condition, keeps from replicas too
	cut       bool     // rows of the selection were left unread
}

// pager reads a selection page by page.
type pager struct {
	*Box

	m         *model
	selection boxed.Selection
	withData  bool
	last      reflect.Value // the row behind which the next page begins
	size      int           // of the next page
}

func (b *Box) pages(
	ctx context.Context, id string, s boxed.Selection, withData bool,
) iter.Seq2[[]boxed.Instance, error] {
	return func(yield func([]boxed.Instance, error) bool) {
		p, err := b.pager(id, s, withData)
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			asked := p.size
			page, err := p.next(ctx)
			if err != nil {
				yield(nil, fmt.Errorf("outbox: read %s: %w", id, err))
				return
			}
			n := len(page.rows)
			if n > 0 && !yield(page.instances, nil) || n < asked && !page.cut {
				return
			}
			p.last = page.rows[n-1].Value
		}
	}
}

func (b *Box) pager(id string, s boxed.Selection, withData bool) (*pager, error) {
	m, err := b.modelOfID(id)
	if err != nil {
		return nil, err
	}
	p := &pager{Box: b, m: m, selection: s, withData: withData}
	if s.After != nil {
		if p.last, err = m.rowOfPK(s.After); err != nil {
			return nil, fmt.Errorf("outbox: go on after %s: %w", s.After, err)
		}
	}
	if p.selection.PageSize <= 0 {
		p.selection.PageSize = defaultPage
	}
	p.size = p.selection.PageSize
	if p.whole() {
		p.size = min(p.size, firstPage)
	}
	return p, nil
}

// whole says that all columns are read, be it to ask the filter.
func (p *pager) whole() bool { return p.withData || p.m.filter != nil }

// next reads the next page, and finds the rows at fault where the whole of it cannot be had.
func (p *pager) next(ctx context.Context) (page, error) {
	limited := func(q *bun.SelectQuery) *bun.SelectQuery {
		if p.selection.Where != nil {
			q = p.selection.Where(q)
		}
		if p.last.IsValid() {
			q = q.Where("(?) > (?)", keyColumns(p.m.table), bun.List(keyValues(p.m.table, p.last)))
		}
		return q.OrderExpr("?", keyColumns(p.m.table)).Limit(int64(p.size))
	}
	read, err := p.page(ctx, p.m, p.withData, limited)
	if err != nil && p.selection.Bad != nil && rowAtFault(err) {
		read, err = p.salvage(ctx, limited)
	}
	if err == nil {
		p.adapt(read)
	}
	return read, err
}

// adapt makes the next page as large as may be held: a page whose states with their relations were
// large is followed by a smaller one.
func (p *pager) adapt(read page) {
	if !p.whole() || len(read.rows) == 0 {
		return
	}
	bytes := 0
	for _, instance := range read.instances {
		bytes += len(instance.Data)
	}
	fits := 2 * p.size
	if read.cut {
		fits = len(read.rows)
	}
	if bytes > pageBytes {
		fits = min(fits, len(read.rows)*pageBytes/bytes)
	}
	p.size = min(max(fits, 1), p.selection.PageSize)
}

// salvage reads the keys of a page, and the rows in parts, so that those at fault are found.
func (p *pager) salvage(
	ctx context.Context, limited func(*bun.SelectQuery) *bun.SelectQuery,
) (whole page, err error) {
	if whole.rows, _, err = p.m.selectRows(ctx, p.db, false, p.m.matching(limited)); err != nil {
		return page{}, err
	}
	err = inHalves(whole.rows, func(keys []record) error {
		part, err := p.page(ctx, p.m, p.withData, func(q *bun.SelectQuery) *bun.SelectQuery {
			return p.m.only(q, keys).OrderExpr("?", keyColumns(p.m.table))
		})
		if err == nil && part.cut {
			err = errTooLarge
		}
		if err == nil {
			whole.instances = append(whole.instances, part.instances...)
		}
		return err
	}, func(key record, err error) error {
		if err := p.stillReads(ctx, p.m, key); err != nil {
			return err
		}
		p.selection.Bad(p.m.wireKey(key), err)
		return nil
	})
	return whole, err
}

// only narrows a query to the rows with the keys of others.
func (m *model) only(q *bun.SelectQuery, rows []record) *bun.SelectQuery {
	keys := make([]bun.TupleValues, len(rows))
	for i, row := range rows {
		keys[i] = bun.Tuple(keyValues(m.table, row.Value))
	}
	return q.Where("(?) IN (?)", keyColumns(m.table), bun.List(keys))
}

// stillReads fails where the database does not even return the key of a row: then the row is not at
// fault.
func (b *Box) stillReads(ctx context.Context, m *model, key record) error {
	_, _, err := m.selectRows(ctx, b.db, false, func(q *bun.SelectQuery) *bun.SelectQuery {
		return m.only(q, []record{key})
	})
	return err
}

// wireKey is a row's primary key as the wire would have it, as far as it can be written.
func (m *model) wireKey(row record) json.RawMessage {
	parts := make([][]byte, len(m.table.PKs))
	for i, field := range m.table.PKs {
		part, err := encodeField(field, row)
		if err != nil {
			// a string always can be
			part, _ = marshal(fmt.Sprint(field.Value(row.Value).Interface()))
		}
		parts[i] = part
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return jsonArray(parts)
}

// page reads what narrow selects, in one snapshot.
func (b *Box) page(
	ctx context.Context, m *model, withData bool, narrow func(*bun.SelectQuery) *bun.SelectQuery,
) (read page, err error) {
	snapshot := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	err = b.db.RunInTx(ctx, snapshot, func(ctx context.Context, tx bun.Tx) error {
		read.rows, read.cut, err = m.selectRows(ctx, tx, withData ||
			m.filter != nil, m.matching(narrow))
		if err == nil {
			read.instances, err = b.instances(ctx, tx, m, read.rows, withData)
		}
		return err
	})
	return read, err
}
