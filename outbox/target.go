package outbox

import (
	"context"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// name is the table as the statement names it.
func (w write) name() string {
	if w.schema == "" {
		return w.table
	}
	return w.schema + "." + w.table
}

// tableName is what identifies a table in a statement: SQL folds the case of bare names.
type tableName struct{ schema, name string }

func nameOf(schema, name string) tableName {
	return tableName{strings.ToLower(schema), strings.ToLower(name)}
}

// registeredName splits the name of a registered model's table.
func registeredName(m *model) tableName {
	name := strings.NewReplacer("`", "", `"`, "").Replace(string(m.table.SQLName))
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		return nameOf(name[:dot], name[dot+1:])
	}
	return nameOf("", name)
}

// bareTable is a table's name without its schema.
func bareTable(name string) string {
	return strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
}

// may says that a name in a statement may mean the registered table: a schema that only one of them
// has depends on the search path. That refuses too much rather than too little.
func (n tableName) may(w write) bool {
	written := nameOf(w.schema, w.table)
	sameSchema := n.schema == written.schema || n.schema == "" || written.schema == ""
	return n.name == written.name && sameSchema
}

// target finds the registered model whose rows a statement writes, nil for none. The reason, if
// there is one, says why the statement's table is not the one that the model's registration names.
func (b *Box) target(event *bun.QueryEvent, w write) (m *model, reason string) {
	if given, isModel := event.Model.(bun.TableModel); isModel && isBuilder(event) {
		if m = b.modelOfType(given.Table().Type); m != nil {
			if registeredName(m) != nameOf(w.schema, w.table) {
				reason = "the table registered for " + m.table.TypeName + " is " + m.table.Name +
					": a table of its own, as a tenant's, needs a box of its own on a bun.DB " +
					"whose search path names it"
			}
			return m, reason
		}
	}
	if m = b.modelOf(w); m != nil {
		return m, ""
	}
	if m = b.kinOf(w); m != nil {
		reason = "it is a partition, parent, child or view of the registered table " +
			m.table.Name + ": write that"
	}
	return m, reason
}

func isBuilder(event *bun.QueryEvent) bool {
	switch event.IQuery.(type) {
	case *bun.InsertQuery, *bun.UpdateQuery, *bun.DeleteQuery:
		return true
	}
	return false
}

// modelOf finds the registration of a table as it stands in a statement.
func (b *Box) modelOf(w write) *model {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, m := range b.byName[strings.ToLower(w.table)] {
		if registeredName(m).may(w) {
			return m
		}
	}
	return nil
}

// outside refuses a write that is in no transaction of the box, or nothing if it may run. s is the
// session of another box that the statement is in, if any.
func (b *Box) outside(s *session, event *bun.QueryEvent, w write) *RefusedError {
	m, _ := b.target(event, w)
	if m == nil || b.hasTriggers(m) {
		for _, r := range b.relatedTo(w) {
			if !b.isCaptured(r) {
				return r.untouched(w)
			}
		}
		return nil
	}
	refused := outsideTx(w.verb, w.name())
	if s != nil {
		refused.Reason = "the transaction is of another Box, and the table is registered with this one"
		refused.Fix = "register all models that one transaction writes with one Box"
	}
	return refused
}

// mayBeChanged says that a statement outside of transactions, of which the text does not tell what
// it writes, may change rows of a registered table. Changes of the schema are no business of the
// box there.
func (b *Box) mayBeChanged(event *bun.QueryEvent, j judgement) bool {
	for _, m := range b.models() {
		if !b.hasTriggers(m) && j.mayChange(event.Query, registeredName(m).name) {
			return true
		}
	}
	return false
}

// kin are the relations through which rows of registered tables are written under another name:
// partitions, parents and children by inheritance, and views.
type kin struct {
	names []catalog.Kin
	model []*model
	at    time.Time
}

// kinFor is how long the catalog's word on them is taken. A partition that is made meanwhile is
// known after that.
const kinFor = time.Minute

// askKin reads the kin of all registered tables once in a while, outside of transactions.
func (b *Box) askKin(ctx context.Context) error {
	if k := b.kin.Load(); k != nil && time.Since(k.at) < kinFor {
		return nil
	}
	k := &kin{at: time.Now()}
	for _, m := range b.models() {
		names, err := b.catalog.Kin(ctx, b.db, string(m.table.SQLName))
		if err != nil {
			return err
		}
		for _, name := range names {
			k.names, k.model = append(k.names, name), append(k.model, m)
		}
	}
	b.kin.Store(k)
	return nil
}

func (b *Box) kinOf(w write) *model {
	k := b.kin.Load()
	if k == nil {
		return nil
	}
	for i, name := range k.names {
		if nameOf(name.Schema, name.Name).may(w) {
			return k.model[i]
		}
	}
	return nil
}
