package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/stored"
)

// checkUUIDs refuses a uuid whose column keeps it otherwise than its type writes it: what is written so is not found.
func (m *model) checkUUIDs(ctx context.Context) error {
	if !slices.ContainsFunc(m.table.Fields, func(f *schema.Field) bool { return stored.IsUUID(f.IndirectType) }) {
		return nil
	}
	shape, err := m.box.store.TableShape(ctx, m.box.db, string(m.table.SQLName), m.table.Name)
	if err != nil {
		return fmt.Errorf("outbox: model %s: %w", m.id, err)
	}
	var errs []error
	for _, f := range m.table.Fields {
		c, found := shape.Column(f.Name)
		if want := c.UUIDField(); found && stored.Misspells(f.IndirectType, want) {
			errs = append(errs, fmt.Errorf("outbox: model %s: column %s of table %s is %s, which does not hold what a %s "+
				"writes; make the field a column.%s", m.id, f.Name, m.table.Name, c.Type, f.IndirectType, want))
		}
	}
	return errors.Join(errs...)
}
