package converge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// walkPage is how many rows, or keys of the ledger, are read at once.
const walkPage = 1000

// walk looks for rows that the ledger does not know: written by somebody else, or the ledger has
// lost its row. The master says what they are.
func (v *verifier) walk(ctx context.Context, m asked) error {
	s := suspects{asked: m, seen: v.now(), read: m.Sent, found: map[string]int64{}}
	speaks, err := v.speaks(ctx, m.about)
	if err == nil && !speaks {
		s.extra, err = v.strangers(ctx, m.Model)
	}
	if err != nil {
		return err
	}
	if len(s.extra) > mostExtra {
		s.found[tooMany] = int64(len(s.extra) - mostExtra) // the next pass finds them
		s.extra = s.extra[:mostExtra]
	}
	return v.suspect(ctx, s)
}

// strangers are rows whose keys are not live in the ledger.
func (v *verifier) strangers(ctx context.Context, model string) ([]registry.Absent, error) {
	shape, err := v.replica.Model(model)
	if err != nil || !shape.Mirrored {
		return nil, err
	}
	var keys []string
	for rows, err := range v.replica.Keys(ctx, model, nil, walkPage) {
		if err != nil {
			return nil, err
		}
		page := make([]string, len(rows))
		for i, row := range rows {
			if _, page[i], err = boxed.Rows.Key(shape.Key, row); err != nil {
				return nil, err
			}
		}
		live, err := v.replica.Known(ctx, model, page)
		if err != nil {
			return nil, err
		}
		for _, key := range page {
			if !live[key] && len(keys) < maxSuspects {
				keys = append(keys, key)
			}
		}
	}
	if exact, err := v.replica.KeyIsExact(ctx, model); err != nil {
		return nil, err
	} else if !exact && len(keys) > 0 {
		if keys, err = v.unrecognised(ctx, model, shape, keys); err != nil {
			return nil, err
		}
	}
	return v.revisionsOf(ctx, model, shape, keys)
}

// unrecognised leaves out the keys that the ledger knows in the master's spelling.
func (v *verifier) unrecognised(
	ctx context.Context, model string, shape mirrored.Shape, keys []string,
) ([]string, error) {
	strange := make(map[string]bool, len(keys))
	for _, key := range keys {
		strange[key] = true
	}
	for after := ""; ; {
		page, err := v.replica.Live(ctx, model, mirrored.Span{After: after}, walkPage)
		if err != nil {
			return nil, err
		}
		kept, err := v.replica.Lookup(ctx, model, keysOf(shape, page), false)
		if err != nil {
			return nil, err
		}
		for _, k := range kept {
			if !k.Present {
				continue
			}
			_, own, err := boxed.Rows.Key(shape.Key, k.Row)
			if err != nil {
				return nil, err
			}
			delete(strange, own)
		}
		if len(page) < walkPage {
			break
		}
		after = page[len(page)-1].Key
	}
	return slices.DeleteFunc(keys, func(key string) bool { return !strange[key] }), nil
}

// revisionsOf adds what the ledger has of keys: nothing, or a tombstone.
func (v *verifier) revisionsOf(
	ctx context.Context, model string, shape mirrored.Shape, keys []string,
) (all []registry.Absent, err error) {
	for chunk := range slices.Chunk(keys, walkPage) {
		page := make([]mirrored.KeyRevision, len(chunk))
		for i, key := range chunk {
			page[i].Key = key
		}
		kept, err := v.replica.Lookup(ctx, model, keysOf(shape, page), false)
		if err != nil {
			return nil, fmt.Errorf("rows that the ledger does not know: %w", err)
		}
		for i, k := range kept {
			if k.Present && (k.Deleted || k.Revision < 0) { // else it came meanwhile
				all = append(all, registry.Absent{Key: chunk[i], Revision: k.Revision})
			}
		}
	}
	return all, nil
}

func keysOf(shape mirrored.Shape, page []mirrored.KeyRevision) []json.RawMessage {
	pks := make([]json.RawMessage, len(page))
	for i, k := range page {
		pks[i] = stored.KeyJSON(shape.Key, k.Key)
	}
	return pks
}
