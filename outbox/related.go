package outbox

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// related is a table whose rows travel inside the messages of a model (Relations): a write of it
// changes entities of the model, although it does not touch their own rows.
type related struct {
	parent *model
	path   string
	table  *schema.Table
	keys   []*schema.Field // where its rows hold the parent's primary key; nil if they do not
	inert  bool            // a new row is part of no entity until another row points at it
}

// relatedTables lists the tables behind the relations of a model.
func (m *model) relatedTables() []related {
	var all []related
	for _, path := range m.relations {
		table := m.table
		for i, name := range strings.Split(path, ".") {
			relation := table.Relations[name]
			table = relation.JoinTable
			r := related{parent: m, path: path, table: table}
			link := related{parent: m, path: path, table: relation.M2MTable}
			switch relation.Type {
			case schema.HasManyRelation, schema.HasOneRelation:
				r.keys = relation.JoinPKs
			default:
				r.inert, link.keys = true, relation.M2MBasePKs
			}
			if i > 0 || !m.holdsKey(relation, r.keys) {
				r.keys = nil
			}
			if i > 0 || !m.holdsKey(relation, link.keys) {
				link.keys = nil
			}
			all = append(all, r)
			if link.table != nil {
				all = append(all, link)
			}
		}
	}
	return all
}

// holdsKey says that columns of a relation's table hold the primary key of the entity that the row
// belongs to.
func (m *model) holdsKey(relation *schema.Relation, columns []*schema.Field) bool {
	if relation.PolymorphicField != nil || len(columns) != len(m.table.PKs) ||
		len(relation.BasePKs) != len(columns) {
		return false
	}
	for i, pk := range m.table.PKs {
		if relation.BasePKs[i] != pk || columns[i].IndirectType != pk.IndirectType {
			return false
		}
	}
	return true
}

// knows says that a table is a registered model's, or one whose rows are sent with a model's.
func (b *Box) knows(table *schema.Table) bool {
	if b.modelOfType(table.Type) != nil {
		return true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.ContainsFunc(b.related[bareTable(table.Name)], func(r related) bool {
		return r.table == table
	})
}

func (b *Box) relatedTo(w write) []related {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var found []related
	for _, r := range b.related[strings.ToLower(w.table)] {
		if registeredName(&model{table: r.table}).may(w) {
			found = append(found, r)
		}
	}
	return found
}

// untouched refuses a write of a related table that names no entity.
func (r related) untouched(w write) *RefusedError {
	return &RefusedError{
		Verb: w.verb, Table: w.name(),
		Reason: fmt.Sprintf("its rows are sent with %s (Relations %q), and no %s was named that "+
			"they belong to",
			r.parent.id, r.path, r.parent.table.TypeName),
		Fix: fmt.Sprintf("name them in the same transaction with outbox.Touch[%s], or run the "+
			"statement under outbox.Explicit(ctx) if it changes none", r.parent.table.TypeName),
	}
}

// captureRelated adds to what is captured of a statement the entities that its rows belong to.
// Where the statement does not tell them, the transaction must name some.
func (s *session) captureRelated(
	ctx context.Context, event *bun.QueryEvent, w write, c *captured,
) (*captured, *RefusedError) {
	if isExplicit(ctx) || !w.rows() {
		return c, nil
	}
	for _, r := range s.box.relatedTo(w) {
		if s.box.isCaptured(r) {
			continue
		}
		if c == nil {
			c = &captured{verb: w.verb}
		}
		known, err := s.addParents(ctx, event, r, c)
		if err != nil {
			refused := r.untouched(w)
			refused.Reason += ": they could not be looked up: " + err.Error()
			return nil, refused
		}
		if !known {
			s.mu.Lock()
			s.untouched[r.parent] = r.untouched(w)
			s.mu.Unlock()
		}
	}
	return c, nil
}

// moved are rows of a related table that an UPDATE may give to another entity.
type moved struct {
	related related
	keys    []bun.TupleValues
}

// addParents adds the entities that the rows of a statement belong to, before and after it. known
// says that these are all.
func (s *session) addParents(
	ctx context.Context, event *bun.QueryEvent, r related, c *captured,
) (known bool, err error) {
	given, isModel := event.Model.(bun.TableModel)
	_, insert := event.IQuery.(*bun.InsertQuery)
	if insert && r.inert && conflictOf(event) != conflictUpdates {
		return true, nil
	}
	if r.keys == nil || !isModel || !isBuilder(event) || given.Table() != r.table {
		return false, nil
	}
	rows := reflect.Indirect(reflect.ValueOf(given.Value()))
	if insert && !rows.IsValid() || len(r.table.PKs) == 0 {
		return false, nil
	}
	if insert {
		return r.addInserted(event, rows, c), nil
	}
	child := &model{box: s.box, table: r.table}
	if child.whyUnseen(event, write{}) != "" {
		return s.addParentsWhere(ctx, event, r, c)
	}
	var keys []bun.TupleValues
	_ = eachRow(rows, func(row reflect.Value) error {
		keys = append(keys, bun.Tuple(keyValues(r.table, row)))
		return nil
	})
	if c.parents, err = s.parentsOf(ctx, r, keys, c.parents); err != nil {
		return false, err
	}
	if _, update := event.IQuery.(*bun.UpdateQuery); update && r.assigned(event) {
		c.moved = append(c.moved, moved{r, keys})
	}
	return true, nil
}

// addInserted adds the entities that inserted rows name, and says whether all rows do.
func (r related) addInserted(event *bun.QueryEvent, rows reflect.Value, c *captured) (known bool) {
	var children []reflect.Value
	_ = eachRow(rows, func(row reflect.Value) error {
		children = append(children, row)
		return nil
	})
	keys, _, reason := literals(event, children, r.keys)
	if reason != "" || conflictOf(event) == conflictUpdates {
		return false
	}
	known = true
	for i, row := range children {
		parent, ok := r.parentOf(row)
		if ok && keys.literal[i] {
			c.parents = append(c.parents, touchedRow{model: r.parent, row: parent, how: guessed})
		}
		known = known && keys.literal[i]
	}
	return known
}

// assigned says that an UPDATE writes the columns by which rows name their entity.
func (r related) assigned(event *bun.QueryEvent) bool {
	for _, column := range assigned(tokensOf(event)) {
		for _, field := range r.keys {
			if strings.EqualFold(column, field.Name) {
				return true
			}
		}
	}
	return false
}

// parentsOf reads what rows of a related table belong to now.
func (s *session) parentsOf(
	ctx context.Context, r related, keys []bun.TupleValues, parents []touchedRow,
) ([]touchedRow, error) {
	found := reflect.New(reflect.SliceOf(r.table.Type))
	query := s.quiet().NewSelect().Model(found.Interface()).Where("(?) IN (?)", keyColumns(r.table),
		bun.List(keys))
	if r.table.SoftDeleteField != nil {
		query = query.WhereAllWithDeleted()
	}
	if err := current(query).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read rows of %s: %w", r.table.Name, err)
	}
	for i := range found.Elem().Len() {
		if parent, ok := r.parentOf(found.Elem().Index(i)); ok {
			parents = append(parents, touchedRow{model: r.parent, row: parent, how: guessed})
		}
	}
	return parents, nil
}

// parentOf is the entity that a row belongs to, with nothing but its primary key; false if the row
// names none.
func (r related) parentOf(row reflect.Value) (reflect.Value, bool) {
	parent := reflect.New(r.parent.table.Type).Elem()
	for i, pk := range r.parent.table.PKs {
		from := r.keys[i]
		value := reflect.Indirect(from.Value(row))
		if !value.IsValid() || value.IsZero() && (from.NullZero || pk.NullZero) {
			return parent, false
		}
		into := pk.Value(parent)
		if into.Kind() == reflect.Pointer {
			into.Set(reflect.New(pk.IndirectType))
			into = into.Elem()
		}
		into.Set(detached(value))
	}
	return parent, true
}
