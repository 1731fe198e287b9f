package outbox

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
)

// Adopt takes over the revisions of a table that a Django master wrote.
func (b operated) Adopt(
	ctx context.Context, model string, o boxed.AdoptOptions,
) (done boxed.Adopted, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return done, err
	}
	if o.PageSize <= 0 {
		o.PageSize = defaultPage
	}
	if err = b.migrator.RequireMigrated(ctx, db.Outbox); err == nil {
		err = m.checkStamps(ctx, b.db)
	}
	var last reflect.Value
	for err == nil {
		var page []stamped
		if page, err = m.stampsAfter(ctx, b.db, last, o.PageSize); err != nil || len(page) == 0 {
			break
		}
		if err = b.adopt(ctx, m, page, &done); err == nil && o.Reached != nil {
			err = o.Reached(len(page))
		}
		last = page[len(page)-1].row
		if len(page) < o.PageSize {
			break
		}
	}
	if err != nil {
		return done, fmt.Errorf("outbox: adopt %s: %w", model, err)
	}
	return done, nil
}

// stamped is a row's key with the revision that its table has.
type stamped struct {
	*mark

	known ledger.Known
}

// checkStamps says which of the columns is missing.
func (m *model) checkStamps(ctx context.Context, db *bun.DB) error {
	rows, err := db.NewSelect().TableExpr("?", m.table.SQLName).ColumnExpr("*").Limit(1).Rows(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // nothing of it was read
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	var missing []string
	for _, name := range []string{revisionColumn, updatedColumn} {
		if !slices.Contains(names, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("table %s has no column %s, as a master of django-cqrs has: there is "+
			"nothing to adopt, and its first captured writes begin with revision 1",
			m.table.Name, strings.Join(missing, " and "))
	}
	return rows.Err()
}

// stampsAfter reads a page of keys with their revisions.
func (m *model) stampsAfter(
	ctx context.Context, db *bun.DB, last reflect.Value, limit int,
) (page []stamped, err error) {
	alias := m.table.SQLAlias
	query := db.NewSelect().Model(reflect.New(m.table.Type).Interface()).ColumnExpr("?",
		keyColumns(m.table)).
		ColumnExpr("?.?, ?.?", alias, bun.Ident(revisionColumn), alias, bun.Ident(updatedColumn))
	if last.IsValid() {
		query = query.Where("(?) > (?)", keyColumns(m.table), bun.List(keyValues(m.table, last)))
	}
	rows, err := query.OrderExpr("?", keyColumns(m.table)).Limit(int64(limit)).Rows(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		values := make([]any, len(m.table.PKs), len(m.table.PKs)+2)
		targets := make([]any, len(values), cap(values))
		for i := range values {
			targets[i] = &values[i]
		}
		var revision *int64
		var updated bun.NullTime
		if err := rows.Scan(append(targets, &revision, &updated)...); err != nil {
			return nil, err
		}
		one := stamped{mark: &mark{row: reflect.New(m.table.Type).Elem()}}
		for i, pk := range m.table.PKs {
			if err := pk.ScanValue(one.row, values[i]); err != nil {
				return nil, fmt.Errorf("column %s: %w", pk.Name, err)
			}
		}
		if one.pk, one.key, err = keyRead(m.table.PKs, one.row); err != nil {
			return nil, err
		}
		if revision == nil || *revision < 0 || updated.IsZero() {
			return nil, fmt.Errorf("key %s: %s or %s is NULL or negative: a master of django-cqrs "+
				"fills both; set them",
				one.key, revisionColumn, updatedColumn)
		}
		one.known = ledger.Known{Key: one.key, Revision: *revision,
			Updated: updated.UTC().Truncate(time.Microsecond)}
		page = append(page, one)
	}
	return page, rows.Err()
}

// adopt brings a page into the ledger.
func (b *Box) adopt(ctx context.Context, m *model, page []stamped, done *boxed.Adopted) error {
	var taken int64
	var sent int
	err := b.inTxPatiently(ctx, func(ctx context.Context, tx bun.IDB) error {
		stamps := make([]ledger.Known, len(page))
		for i, s := range page {
			stamps[i] = s.known
		}
		adopted, err := b.ledger.AdoptRevisions(ctx, tx, m.id, stamps)
		if err != nil {
			return err
		}
		taken, sent = adopted.Taken, 0
		var late []*mark
		for _, s := range page {
			if adopted.Overtaken[s.key] {
				late = append(late, s.mark)
			}
		}
		for len(late) > 0 {
			keys, unread, err := b.syncLocked(ctx, tx, m, late, SyncOptions{})
			if err != nil {
				return err
			}
			sent += len(keys)
			late = unread
		}
		return nil
	})
	if err != nil {
		return err
	}
	done.Rows += int64(len(page))
	done.Taken += taken
	done.Sent += int64(sent)
	if sent > 0 {
		b.committed(handover.Offer{Rest: true})
	}
	return nil
}
