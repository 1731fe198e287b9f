package outbox

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// captureModel is what triggers need to know of the model. The messages are Go's.
func (m *model) captureModel(ctx context.Context) (capture.Model, error) {
	c := capture.Model{ID: m.id, Table: unquoted(string(m.table.SQLName)), Swept: true}
	columns, err := m.keyColumns(ctx)
	if err != nil {
		return c, fmt.Errorf("model %s: triggers: %w", m.id, err)
	}
	c.Key = columns
	for _, r := range m.relatedTables() {
		if r.keys == nil {
			continue // its rows do not say whose they are: a session reads statements for them
		}
		touch := capture.Touch{Table: unquoted(string(r.table.SQLName))}
		for i, field := range r.keys {
			touch.Columns = append(touch.Columns, capture.Column{Name: field.Name, Kind: columns[i].Kind})
		}
		c.Touch = append(c.Touch, touch)
	}
	return c, nil
}

// uuidKinds are uuids in columns of another type. Other spellings than Go's are refused when they
// are written: they would not be found.
var uuidKinds = map[catalog.UUIDForm]capture.Kind{
	catalog.TextUUID:   capture.TextUUID,
	catalog.HexUUID:    capture.HexUUID,
	catalog.BinaryUUID: capture.BinaryUUID,
}

func unquoted(name string) string { return strings.NewReplacer("`", "", `"`, "").Replace(name) }

// keyColumns reads what the columns of the key are.
func (m *model) keyColumns(ctx context.Context) ([]capture.Column, error) {
	name := string(m.table.SQLName)
	shape, err := catalog.ShapeOf(ctx, m.box.db, name, unquoted(name))
	if err != nil {
		return nil, err
	}
	if len(shape.Columns) == 0 {
		return nil, fmt.Errorf("table %s does not exist: make it before Box.Migrate, which puts "+
			"triggers on it", m.table.Name)
	}
	var columns []capture.Column
	for _, pk := range m.table.PKs {
		at := slices.IndexFunc(shape.Columns, func(c catalog.Column) bool { return c.Name == pk.Name })
		if at < 0 {
			return nil, fmt.Errorf("table %s has no column %s", m.table.Name, pk.Name)
		}
		kind, known := capture.KeyKind(m.box.db.Dialect().Name(), shape.Columns[at].Base)
		if form, is := uuidKinds[shape.Columns[at].UUIDForm()]; is && stored.IsUUID(pk.IndirectType) &&
			shape.Columns[at].Base != "uuid" {
			kind, known = form, true
		}
		if !known || shape.Columns[at].Array {
			return nil, fmt.Errorf("key column %s has the type %s, and triggers know keys of %s only: "+
				"leave outbox.Triggers out", pk.Name, shape.Columns[at].Type, capture.KnownKeys)
		}
		if kind == capture.Date && pk.IndirectType != reflect.TypeFor[time.Time]() {
			return nil, fmt.Errorf("key column %s is a date, and a %s in Go, which may spell it "+
				"otherwise than "+
				"triggers do: make it a time.Time with the tag type:date, or leave outbox.Triggers out",
				pk.Name, pk.IndirectType)
		}
		columns = append(columns, capture.Column{Name: pk.Name, Kind: kind})
	}
	return columns, nil
}
