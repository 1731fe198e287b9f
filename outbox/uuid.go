package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// checkUUIDs refuses a uuid whose column keeps it otherwise than its type writes it: what is
// written so is not found.
func (m *model) checkUUIDs(ctx context.Context) error {
	if !slices.ContainsFunc(m.table.Fields,
		func(f *schema.Field) bool { return stored.IsUUID(f.IndirectType) }) {
		return nil
	}
	shape, err := m.box.catalog.TableShape(ctx, m.box.db, string(m.table.SQLName), m.table.Name)
	if err != nil {
		return fmt.Errorf("outbox: model %s: %w", m.id, err)
	}
	var errs []error
	for _, f := range m.table.Fields {
		c, found := shape.Column(f.Name)
		if want := c.UUIDField(); found && stored.Misspells(f.IndirectType, want) {
			errs = append(errs,
				fmt.Errorf("outbox: model %s: column %s of table %s is %s, which does not hold "+
					"what a %s writes; make the field a column.%s",
					m.id, f.Name, m.table.Name, c.Type, f.IndirectType, want))
		}
	}
	errs = append(errs, m.checkSpelling(ctx))
	return errors.Join(errs...)
}

// spellingSample is how many keys of the ledger are looked at: after a change of the field's type
// all of them are spelled otherwise.
const spellingSample = 100

// checkSpelling refuses a ledger that knows its keys in another spelling than the model's, as
// before its field was a uuid's: each key would begin with revision 1 again, which replicas take
// for old.
func (m *model) checkSpelling(ctx context.Context) error {
	if len(m.table.PKs) != 1 || !stored.IsUUID(m.table.PKs[0].IndirectType) ||
		!m.box.checked.Load() {
		return nil
	}
	known, err := m.box.ledger.Live(ctx, m.box.db, m.id, ledger.Range{}, spellingSample)
	if err != nil {
		return fmt.Errorf("outbox: model %s: %w", m.id, err)
	}
	for _, k := range known {
		quoted := stored.KeyJSON(m.table.PKs, k.Key)
		if spelled := stored.UUIDText(m.table.PKs[0].IndirectType,
			quoted); string(spelled) != string(quoted) {
			return fmt.Errorf("outbox: model %s: the ledger knows the key %s, which the model "+
				"spells %s, so its revisions would begin again; respell the keys in "+
				"outbox_revisions first (docs/types.md has the statements)", m.id, quoted, spelled)
		}
	}
	return nil
}
