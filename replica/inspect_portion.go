package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	ledgers "github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Digest returns the digest of what is held in a part of the ledger.
func (r inspected) Digest(
	ctx context.Context, model string, p mirrored.Portion,
) (ledgers.Digest, error) {
	if p.Speaks && p.Content == nil {
		d, err := r.ledger.Digest(ctx, r.db, model, ledgers.Range{After: p.After, To: p.To},
			p.Limit)
		if err != nil {
			err = fmt.Errorf("replica: %w", err)
		}
		return d, err
	}
	sum := ledgers.NewSum()
	last, more, err := r.eachHeld(ctx, model, p, func(k mirrored.Holding) {
		sum.Add(k.Key, k.Revision, k.Content)
	})
	return ledgers.Digest{Keys: sum.Keys, Sum: sum.String(), Last: last, More: more}, err
}

// Holdings returns what is held in a part of the ledger, and the last key that it has there. more
// says that its limit ended it.
func (r inspected) Holdings(
	ctx context.Context, model string, p mirrored.Portion,
) (held []mirrored.Holding, last string, more bool, err error) {
	last, more, err = r.eachHeld(ctx, model, p, func(k mirrored.Holding) { held = append(held, k) })
	return held, last, more, err
}

// eachHeld goes through what is held in a part of the ledger, in its order.
func (r inspected) eachHeld(
	ctx context.Context, model string, p mirrored.Portion, each func(mirrored.Holding),
) (last string, more bool, err error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return "", false, err
	}
	span := ledgers.Range{After: p.After, To: p.To}
	for rest := p.Limit; ; {
		size := mostAsked
		if p.Limit > 0 {
			size = min(size, rest)
		}
		page, err := r.Live(ctx, model, span, size)
		if err == nil {
			err = r.hold(ctx, b, p, page, each)
		}
		if err != nil {
			return last, false, err
		}
		if len(page) > 0 {
			last = page[len(page)-1].Key
			span.After = last
		}
		if len(page) < size {
			return last, false, nil
		}
		if rest -= size; p.Limit > 0 && rest == 0 {
			return last, true, nil
		}
	}
}

// hold tells those of a page of live keys whose rows are there.
func (r inspected) hold(
	ctx context.Context, b *binding, p mirrored.Portion, page []mirrored.KeyRevision,
	each func(mirrored.Holding),
) error {
	if p.Speaks && p.Content == nil {
		for _, k := range page {
			each(mirrored.Holding{Key: k.Key, Revision: k.Revision})
		}
		return nil
	}
	shape, err := r.Model(b.model)
	if err != nil {
		return err
	}
	pks := make([]json.RawMessage, len(page))
	for i, k := range page {
		pks[i] = stored.KeyJSON(shape.Key, k.Key)
	}
	kept, err := r.LookupRows(ctx, b.model, pks, p.Content != nil)
	if err != nil {
		return err
	}
	for i, k := range kept {
		if !k.Present || k.Deleted || k.Revision < 0 {
			continue
		}
		held := mirrored.Holding{Key: page[i].Key, Revision: k.Revision}
		if p.Content != nil {
			if held.Content, err = p.Content(k); err != nil {
				return fmt.Errorf("key %s: %w", k.Key, err)
			}
		}
		each(held)
	}
	return nil
}

// LookupRows is Lookup, and looks on where a row cannot be read, an infinite time for example: that
// one is there without its Row.
func (r inspected) LookupRows(
	ctx context.Context, model string, pks []json.RawMessage, withRows bool,
) ([]mirrored.Kept, error) {
	kept, err := r.Lookup(ctx, model, pks, withRows)
	if err == nil || !withRows || ctx.Err() != nil {
		return kept, err
	}
	if len(pks) == 1 {
		return r.withoutRows(ctx, model, pks)
	}
	if _, err := r.Lookup(ctx, model, pks, false); err != nil {
		return nil, err // it is not what the rows hold
	}
	half := len(pks) / 2
	first, err := r.LookupRows(ctx, model, pks[:half], true)
	if err != nil {
		return nil, err
	}
	second, err := r.LookupRows(ctx, model, pks[half:], true)
	return append(first, second...), err
}

func (r inspected) withoutRows(
	ctx context.Context, model string, pks []json.RawMessage,
) ([]mirrored.Kept, error) {
	kept, err := r.Lookup(ctx, model, pks, false)
	for i := range kept {
		kept[i].Row = reflect.Value{}
	}
	return kept, err
}
