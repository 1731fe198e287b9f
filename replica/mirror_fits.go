package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// fits returns an error for the first value that a column would change.
func (shape *mirrorShape) fits(set *columnSet, rows []*row) error {
	for i, f := range set.fields {
		within := shape.limits[f.Name]
		if within == nil {
			continue
		}
		for _, r := range rows {
			if err := within(r.values[i]); err != nil {
				return &codeError{Permanent(fmt.Errorf("column %q does not keep the value as it "+
					"is: %w", f.Name, err))}
			}
		}
	}
	return nil
}

// shapeFor is what the catalog says about the table. Where it seems not to take the rows it is
// asked again: somebody may have mended it since.
func (k *known) shapeFor(
	ctx context.Context, tx bun.IDB, set *columnSet, rows []*row,
) (*mirrorShape, error) {
	shape := k.shape.Load()
	err := shape.fits(set, rows)
	if err == nil || time.Since(shape.reread) < rereadAfter {
		return shape, err
	}
	now, readErr := k.tables.TableShape(ctx, tx, string(k.of.SQLName), k.of.Name)
	if readErr != nil {
		return nil, readErr
	}
	again := newMirrorShape(tx, k.of, now)
	again.parents, again.reread = shape.parents, time.Now()
	k.shape.Store(again)
	return again, again.fits(set, rows)
}

// rereadAfter bounds how often values that do not fit make the catalog be read.
const rereadAfter = 100 * time.Millisecond
