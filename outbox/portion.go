package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/ledger"
)

// lookupPage is how many keys of the ledger are looked up in the table at once.
const lookupPage = 1000

// Speaks says that the ledger of a model has what its table has, and that all of it is sent.
func (b operated) Speaks(ctx context.Context, model string) (bool, error) {
	m, err := b.modelOfID(model)
	if err != nil || len(m.table.PKs) > 1 || m.filter != nil {
		return false, err
	}
	return b.ledger.SpeaksFor(ctx, b.db, model, string(m.table.SQLName),
		string(m.table.PKs[0].SQLName))
}

// AdoptUnknown gives the rows that are sent and that the ledger does not know their ledger row, and
// returns how many there were: those that are older than cqrsync, or came past it. Those that the
// ledger has as deleted came past it, too: they are sent as any write is, with the next revision.
func (b operated) AdoptUnknown(
	ctx context.Context, model string, bad func(json.RawMessage, error),
) (n int, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return 0, err
	}
	for page, err := range b.Unknown(ctx, model, boxed.Selection{PageSize: lookupPage, Bad: bad}) {
		if err != nil {
			return n, err
		}
		unknown, buried := keysOfUnknown(page)
		if len(unknown) > 0 {
			err = b.own.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
				return b.ledger.Adopt(ctx, tx, model, unknown)
			})
		}
		if err == nil && len(buried) > 0 {
			err = b.saveAgain(ctx, m.rowsOfKeys(buried))
		}
		if err != nil {
			return n, fmt.Errorf("outbox: %w", err)
		}
		n += len(unknown) + len(buried)
	}
	return n, nil
}

// Unknown reads the instances that the ledger does not know, and those that it has
// as deleted, in the snapshot in which the rows were read: what was deleted since is
// no such row. A page may be empty.
func (b operated) Unknown(
	ctx context.Context, model string, s boxed.Selection,
) iter.Seq2[[]boxed.Instance, error] {
	return func(yield func([]boxed.Instance, error) bool) {
		for page, err := range b.Revisions(ctx, model, s) {
			page = slices.DeleteFunc(page, func(instance boxed.Instance) bool {
				return !instance.Buried && !instance.Updated.Equal(unwritten)
			})
			if !yield(page, err) || err != nil {
				return
			}
		}
	}
}

// keysOfUnknown are the keys that the ledger does not know, and those that it has as deleted.
func keysOfUnknown(page []boxed.Instance) (unknown, buried []string) {
	for _, instance := range page {
		if instance.Buried {
			buried = append(buried, instance.Key)
		} else {
			unknown = append(unknown, instance.Key)
		}
	}
	return unknown, buried
}

// saveAgain sends rows as a write of them does. It locks them for as long as that takes.
func (b operated) saveAgain(ctx context.Context, rows []reflect.Value) error {
	saved := make([]any, len(rows))
	for i, row := range rows {
		saved[i] = row.Addr().Interface()
	}
	return b.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return b.Saved(ctx, tx, saved...)
	})
}

// Digest returns the digest of what is sent in a part of the ledger.
func (b operated) Digest(
	ctx context.Context, model string, p boxed.Portion,
) (ledger.Digest, error) {
	if p.Speaks && p.Content == nil {
		d, err := b.ledger.Digest(ctx, b.db, model, ledger.Range{After: p.After, To: p.To}, p.Limit)
		if err != nil {
			err = fmt.Errorf("outbox: %w", err)
		}
		return d, err
	}
	sum := ledger.NewSum()
	last, more, err := b.eachSent(ctx, model, p, func(k boxed.Claim) {
		sum.Add(k.Key, k.Revision, k.Content)
	})
	return ledger.Digest{Keys: sum.Keys, Sum: sum.String(), Last: last, More: more}, err
}

// Claims returns what is sent in a part of the ledger, and the last key that it has there. more
// says that its limit ended it.
func (b operated) Claims(
	ctx context.Context, model string, p boxed.Portion,
) (claims []boxed.Claim, last string, more bool, err error) {
	last, more, err = b.eachSent(ctx, model, p, func(k boxed.Claim) { claims = append(claims, k) })
	return claims, last, more, err
}

// eachSent goes through what is sent in a part of the ledger, in its order.
func (b operated) eachSent(
	ctx context.Context, model string, p boxed.Portion, each func(boxed.Claim),
) (last string, more bool, err error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return "", false, err
	}
	r := ledger.Range{After: p.After, To: p.To}
	for rest := p.Limit; ; {
		size := lookupPage
		if p.Limit > 0 {
			size = min(size, rest)
		}
		page, err := b.ledger.Live(ctx, b.db, model, r, size)
		if err == nil {
			err = b.claim(ctx, m, p, page, each)
		}
		if err != nil {
			return last, false, fmt.Errorf("outbox: read %s: %w", model, err)
		}
		if len(page) > 0 {
			last = page[len(page)-1].Key
			r.After = last
		}
		if len(page) < size {
			return last, false, nil
		}
		if rest -= size; p.Limit > 0 && rest == 0 {
			return last, true, nil
		}
	}
}

// claim tells those of a page of live keys that are sent.
func (b operated) claim(
	ctx context.Context, m *model, p boxed.Portion, page []ledger.KeyRevision, each func(boxed.Claim),
) error {
	if p.Speaks && p.Content == nil {
		for _, k := range page {
			each(boxed.Claim{Key: k.Key, Revision: k.Revision})
		}
		return nil
	}
	keys := make([]string, len(page))
	for i, k := range page {
		keys[i] = k.Key
	}
	found, unreadable, err := b.findSent(ctx, m, keys, p.Content != nil)
	if err != nil {
		return err
	}
	for i, key := range keys {
		instance, is := found[key]
		if !is && !unreadable[key] {
			continue
		}
		c := boxed.Claim{Key: key, Revision: instance.Revision}
		if unreadable[key] {
			c.Revision, c.Content = page[i].Revision, boxed.Unreadable
		}
		if is && p.Content != nil {
			var err error
			if c.Content, err = p.Content(instance); err != nil {
				return fmt.Errorf("key %s: %w", key, err)
			}
		}
		each(c)
	}
	return nil
}

// findSent reads the instances of keys that are sent. Of a row that cannot be read nobody knows
// whether it is.
func (b operated) findSent(
	ctx context.Context, m *model, keys []string, withData bool,
) (found map[string]boxed.Instance, unreadable map[string]bool, err error) {
	found = make(map[string]boxed.Instance, len(keys))
	err = inHalves(m.rowsOfKeys(keys), func(rows []reflect.Value) error {
		return b.sentOf(ctx, m, rows, withData, found)
	}, func(row reflect.Value, _ error) error {
		_, key, err := keyRead(m.table.PKs, row)
		if unreadable == nil {
			unreadable = map[string]bool{}
		}
		unreadable[key] = true
		return err
	})
	return found, unreadable, err
}
