package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/outbox"
)

// Capture has a database capture the tables of a manifest by triggers: whoever writes them, in
// whatever language.
type Capture struct {
	models  []capture.Model
	capture *capture.Capture
}

// Capture reads the tables from the catalog. It changes nothing. config says where the outbox is.
func (m *Manifest) Capture(
	ctx context.Context, db *bun.DB, config outbox.Config,
) (*Capture, error) {
	names := capture.Names{Schema: config.Schema, Prefix: config.TablePrefix}
	c := &Capture{capture: capture.New(db, names)}
	err := m.each(func(id string, model Model) error {
		captured, err := model.captured(ctx, db, id)
		c.models = append(c.models, captured)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Install puts the triggers in place, or brings them up to date while others write. Running it
// again changes nothing. It needs the right to make triggers and functions.
func (c *Capture) Install(ctx context.Context) error { return c.capture.Install(ctx, c.models) }

// SQL returns the statements of Install, for a team that runs them itself.
func (c *Capture) SQL(ctx context.Context) ([]string, error) {
	return c.capture.Statements(ctx, c.models)
}

// Check lists the triggers that are missing, disabled, older than this program, or made for other
// columns than the tables have now: one line each. None means that every write is captured.
func (c *Capture) Check(ctx context.Context) ([]string, error) {
	found, err := c.capture.Check(ctx, c.models)
	lines := make([]string, len(found))
	for i, f := range found {
		lines[i] = f.String()
	}
	return lines, err
}

// Installed says that any of the manifest's models has triggers.
func (c *Capture) Installed(ctx context.Context) (bool, error) {
	ids, err := c.capture.Installed(ctx)
	return slices.ContainsFunc(c.models, func(m capture.Model) bool {
		return slices.Contains(ids, m.ID)
	}), err
}

// Remove takes the triggers of the manifest's models away, and with the last of the database's
// models all that Install made.
func (c *Capture) Remove(ctx context.Context) error {
	ids := make([]string, len(c.models))
	for i, m := range c.models {
		ids[i] = m.ID
	}
	return c.capture.Remove(ctx, ids)
}

// captured is the model as triggers know it. On PostgreSQL they write the messages; elsewhere they
// note keys, and the relay's sweep writes the messages as a service in Go would.
func (m Model) captured(ctx context.Context, db *bun.DB, id string) (capture.Model, error) {
	c := capture.Model{
		ID: id, Table: m.Table, Everything: m.EveryRevision,
		Truncates: m.Truncate == truncateDeletes,
	}
	columns, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return c, err
	}
	if err := m.checkNames(columns); err != nil {
		return c, err
	}
	errs := []error{m.capturedColumns(db, columns, &c)}
	for _, name := range m.Track {
		at := slices.IndexFunc(c.Fields, func(f capture.Field) bool { return f.Column.Name == name })
		if at < 0 && db.Dialect().Name() == dialect.PG {
			errs = append(errs, fmt.Errorf("track: column %q is not sent", name))
		} else if at >= 0 {
			c.Track = append(c.Track, c.Fields[at])
		}
	}
	condition, err := m.conditionOf(ctx, db)
	if db.Dialect().Name() == dialect.PG { // elsewhere the sweep asks it
		c.Filter = condition
	}
	errs = append(errs, err, m.capturedRelations(ctx, db, &c))
	for _, t := range m.touches() {
		errs = append(errs, m.capturedTouch(ctx, db, t, &c))
	}
	return c, errors.Join(errs...)
}

// capturedColumns are those of the table that triggers must know.
func (m Model) capturedColumns(db *bun.DB, columns []catalog.Column, c *capture.Model) error {
	var errs []error
	hasKey := false
	slices.SortStableFunc(columns, func(a, b catalog.Column) int {
		return m.rank(a.Name) - m.rank(b.Name)
	})
	for _, column := range columns {
		if len(m.Key) > 0 {
			column.IsKey = slices.Contains(m.Key, column.Name)
		}
		if !m.takes(column) || !column.IsKey && db.Dialect().Name() != dialect.PG {
			continue
		}
		hasKey = hasKey || column.IsKey
		captured, err := capturedColumn(db, column, m.Types[column.Name])
		if err != nil {
			errs = append(errs, fmt.Errorf("column %q of table %s: %w", column.Name, m.Table, err))
			continue
		}
		c.Fields = append(c.Fields, capture.Field{
			Name: m.nameOf(column.Name), Column: captured, Finite: m.NaNAsNull,
		})
		if column.IsKey {
			c.Key = append(c.Key, captured)
		}
	}
	if !hasKey {
		errs = append(errs, fmt.Errorf(
			"table %s has no primary key: name the columns under key", m.Table))
	}
	return errors.Join(errs...)
}

// nameOf is what messages call a column.
func (m Model) nameOf(column string) string {
	if other, renamed := m.Map[column]; renamed {
		return other
	}
	return column
}

// kinds are what PostgreSQL's types are to triggers: the same text as the Go types of goType make.
var kinds = map[family]capture.Kind{
	texts: capture.Text, integers: capture.Integer, truths: capture.Bool, singles: capture.Float,
	doubles: capture.Float, moments: capture.Moment, dates: capture.Date, documents: capture.JSON,
	binaries: capture.Bytes, paddedTexts: capture.PaddedText, decimals: capture.Decimal,
	uuids: capture.UUID,
}

// capturedColumn is a column as triggers know it. said is what the file says that it holds.
func capturedColumn(db *bun.DB, c catalog.Column, said string) (capture.Column, error) {
	name := db.Dialect().Name()
	if _, err := fieldOf(c, 0, name, said); err != nil {
		return capture.Column{}, err
	}
	column := capture.Column{
		Name: c.Name, Array: c.Array, Null: !c.NotNull && !c.IsKey, Padded: c.Base == "bpchar",
	}
	if said != "" && c.Base != "uuid" {
		column.Kind = uuidKinds[c.UUIDForm()]
		return column, nil
	}
	if name != dialect.PG {
		kind, known := capture.KeyKind(name, c.Base)
		if column.Kind = kind; !known {
			return column, fmt.Errorf(
				"its type %s is not known to triggers as that of a key, want one of %s",
				c.Type, capture.KnownKeys)
		}
		return column, nil
	}
	f, _ := familyOf(name, c)
	kind, known := kinds[f]
	if !known {
		return column, fmt.Errorf("its type %s is not known to triggers", c.Type)
	}
	if kind == capture.Text && c.Base != "text" && c.Base != "varchar" {
		kind = capture.Printed
	}
	column.Kind = kind
	return column, nil
}

// uuidKinds are uuids in columns of another type.
var uuidKinds = map[catalog.UUIDForm]capture.Kind{
	catalog.TextUUID:   capture.TextUUID,
	catalog.HexUUID:    capture.HexUUID,
	catalog.BinaryUUID: capture.BinaryUUID,
}
