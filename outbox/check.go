package outbox

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// Check says what would keep the box from working, or its messages from being right, all of it at
// once: wrong registrations, outbox tables that are missing or older than this version
// ([ErrNotMigrated]), registered tables or columns that the database does not have, and each
// [Finding] that makes messages wrong. Call it when the service starts. RunInTx repeats the first
// two by itself, the tables until they are there.
//
// Other findings it logs with [Config].Logger, as warnings; [Box.Findings] has them all. What
// is known and right as it is goes into [Accept]. Where triggers capture some models, it logs as
// information which ones, and which ones bun does.
func (b *Box) Check(ctx context.Context) error {
	errs := []error{b.ready(ctx), b.checkTriggers(ctx)}
	found, err := b.Findings(ctx)
	errs = append(errs, err)
	b.warnOfObserver(ctx)
	b.sayWhoCaptures(ctx)
	for _, f := range found {
		if f.IsWrong() {
			errs = append(errs, f)
			continue
		}
		b.log.WarnContext(ctx, "outbox: "+f.Detail,
			"kind", string(f.Kind), "model", f.Model, "table", f.Table, "fix", f.Fix)
	}
	return errors.Join(errs...)
}

// sayWhoCaptures logs which of the two captures each model has. Without triggers there is nothing
// to tell apart.
func (b *Box) sayWhoCaptures(ctx context.Context) {
	by := map[bool][]string{}
	for _, m := range b.models() {
		by[b.hasTriggers(m)] = append(by[b.hasTriggers(m)], m.id)
	}
	if len(by[true]) == 0 {
		return
	}
	b.log.InfoContext(ctx,
		"outbox: triggers capture what anybody writes, bun what goes through this box",
		"triggers", list(by[true]), "bun", list(by[false]))
}

// Findings returns what about the database may surprise later, but for what was accepted. The error
// says which tables or columns are missing.
func (b *Box) Findings(ctx context.Context) ([]*Finding, error) {
	var found []*Finding
	sequence, err := b.catalog.CachedSequence(ctx, b.db)
	errs := []error{err}
	if sequence != "" {
		found = append(found, &Finding{
			FoundSequence, "", sequence,
			"the sequence that numbers the messages has a cache, so newer messages may leave first",
			"ALTER SEQUENCE " + sequence + " CACHE 1",
		})
	}
	unswept, err := b.unswept(ctx)
	errs = append(errs, err)
	found = append(found, unswept...)
	b.mu.RLock()
	byID := func(a, b *model) int { return strings.Compare(a.id, b.id) }
	models := slices.SortedFunc(maps.Values(b.byID), byID)
	b.mu.RUnlock()
	for _, m := range models {
		of, err := m.findings(ctx)
		errs = append(errs, err)
		for _, f := range of {
			if !slices.Contains(m.accepted, f.Kind) {
				found = append(found, f)
			}
		}
	}
	return found, errors.Join(errs...)
}

// findings are those of the model's table and of its relations'.
func (m *model) findings(ctx context.Context) ([]*Finding, error) {
	if err := m.checkTable(ctx); err != nil {
		return nil, err
	}
	behaviour, err := m.behaviour(ctx, m.table)
	if err != nil {
		return nil, err
	}
	found := m.changedBy(m.table, behaviour)
	found = append(found, m.keyFindings(behaviour)...)
	rounded, err := m.roundings(ctx, m.table)
	if err != nil {
		return nil, err
	}
	found = append(found, rounded...)
	for _, table := range m.relationTables() {
		behaviour, err := m.behaviour(ctx, table)
		if err != nil {
			return nil, err
		}
		found = append(found, m.changedBy(table, behaviour)...)
		rounded, err := m.roundings(ctx, table)
		if err != nil {
			return nil, err
		}
		found = append(found, rounded...)
		if _, registered := m.box.typeOf(table); !registered && !embedsTracked(table.Type) {
			found = append(found, m.finding(FoundRelation, table,
				"it is sent with the model, and "+table.TypeName+" does not embed outbox.Tracked, "+
					"so a write of it through another bun.DB is not refused",
				"embed outbox.Tracked in "+table.TypeName+", and Touch the "+m.id))
		}
	}
	return found, nil
}

func (m *model) finding(kind FindingKind, table *schema.Table, detail, fix string) *Finding {
	fix += ", or take it as it is with outbox.Accept at Register"
	return &Finding{kind, m.id, table.Name, detail, fix}
}

// checkTable fails where the table or a column is missing.
func (m *model) checkTable(ctx context.Context) error {
	columns := make([]string, len(m.table.Fields))
	for i, field := range m.table.Fields {
		// SQLite takes a bare "name" that is no column for a text
		columns[i] = "r." + string(field.SQLName)
	}
	_, err := m.box.db.ExecContext(ctx, "SELECT ? FROM ? AS r WHERE 1 = 0",
		bun.Safe(strings.Join(columns, ", ")), m.table.SQLName)
	if err != nil {
		return fmt.Errorf("outbox: model %s: the table %s does not have the columns of %s: %w",
			m.id, m.table.Name, m.table.Type, err)
	}
	return m.checkUUIDs(ctx)
}

func (m *model) behaviour(ctx context.Context, table *schema.Table) (catalog.Behaviour, error) {
	behaviour, err := m.box.catalog.Behaviour(ctx, m.box.db, string(table.SQLName), table.Name)
	if err != nil {
		return behaviour, fmt.Errorf("outbox: model %s: %w", m.id, err)
	}
	return behaviour, nil
}

// changedBy is what changes rows of a table that the model sends, without a statement on them.
func (m *model) changedBy(table *schema.Table, behaviour catalog.Behaviour) []*Finding {
	var found []*Finding
	if m.box.captured(m, registeredName(&model{table: table})) {
		return nil // triggers see what all of them do
	}
	for _, c := range behaviour.Cascades {
		if table != m.table && bareTable(c.Parent) == bareTable(m.table.Name) {
			continue // the model's own rows go with their parts: the parent's DELETE says so
		}
		found = append(found, m.finding(FoundCascade, table, fmt.Sprintf(
			"the foreign key %s to %s has %s, so the database changes rows that no message tells "+
				"of",
			c.Name, c.Parent, c.Rule),
			"make it NO ACTION and write the rows through bun"))
	}
	if len(behaviour.Rules) > 0 {
		found = append(found, m.finding(FoundRule, table, "the rules "+list(behaviour.Rules)+
			" rewrite its writes, so other rows may change than those that the statement names",
			"drop them"))
	}
	if len(behaviour.Triggers) > 0 {
		found = append(found, m.finding(FoundTrigger, table,
			"the triggers "+list(behaviour.Triggers)+
				" run with its writes; what they do to other registered rows is not sent, and a key "+
				"that one gives a new row is known only where the INSERT returns it",
			"let them change the written row only; where they change its key, write with "+
				"Returning(\"*\")"))
	}
	if behaviour.RowSecurity {
		found = append(found, m.finding(FoundRowSecurity, table,
			"it has row level security; what a session may not read is not sent",
			"give the services' role BYPASSRLS"))
	}
	return found
}

// roundings are the columns of a table in which decimals lose digits.
func (m *model) roundings(ctx context.Context, table *schema.Table) ([]*Finding, error) {
	rounded, err := m.box.catalog.Rounded(ctx, m.box.db, table)
	if err != nil {
		return nil, fmt.Errorf("outbox: model %s: %w", m.id, err)
	}
	var found []*Finding
	for _, column := range slices.Sorted(maps.Keys(rounded)) {
		found = append(found, m.finding(FoundRounding, table, fmt.Sprintf(
			"its column %s was declared %s, so SQLite makes numbers of texts there, and rounds "+
				"decimals of more than 15 digits",
			column, rounded[column]),
			"declare it TEXT, or with a precision of up to 15, as DECIMAL(15, 2)"))
	}
	return found, nil
}

// keyFindings are about the model's key.
func (m *model) keyFindings(behaviour catalog.Behaviour) []*Finding {
	var found []*Finding
	var key []string
	for _, pk := range m.table.PKs {
		key = append(key, pk.Name)
		if by, folded := behaviour.Folded[pk.Name]; folded {
			found = append(found, m.finding(FoundSpelling, m.table, "its key column "+pk.Name+
				" takes two spellings for one value ("+by+"); messages have the stored one",
				"give it a type or collation that compares texts byte by byte"))
		}
		if typ, isText := behaviour.Texts[pk.Name]; isText && isNumber(pk) {
			found = append(found, m.finding(FoundKey, m.table, fmt.Sprintf(
				"its key column %s is a %s and %s is a %s, so the rows '1' and '01' would share "+
					"one revision",
				pk.Name, typ, pk.GoName, pk.IndirectType), "make "+pk.GoName+
				" a string, or the column a number"))
		}
	}
	isUnique := slices.ContainsFunc(behaviour.Unique, func(columns []string) bool {
		return every(columns, m.isKeyColumn)
	})
	if !isUnique {
		found = append(found, m.finding(FoundKey, m.table, "the model's key "+list(key)+
			" is not unique in it, so several rows would share one revision",
			"add a primary key or a unique index on it, without a condition"))
	}
	return found
}

// isNumber says that a field holds a number, and nothing of its own turns it into something else.
func isNumber(field *schema.Field) bool {
	kind := field.IndirectType.Kind()
	return kind >= reflect.Bool && kind <= reflect.Float64 &&
		!field.IndirectType.Implements(reflect.TypeFor[driver.Valuer]()) &&
		!reflect.PointerTo(field.IndirectType).Implements(reflect.TypeFor[driver.Valuer]())
}

// relationTables are the tables whose rows are sent with the model's, each once.
func (m *model) relationTables() []*schema.Table {
	tables := map[*schema.Table]bool{}
	for _, path := range m.relations {
		table := m.table
		for name := range strings.SplitSeq(path, ".") {
			relation := table.Relations[name]
			if relation == nil {
				break // Register has refused it
			}
			if relation.M2MTable != nil {
				tables[relation.M2MTable] = true
			}
			table = relation.JoinTable
			tables[table] = true
		}
	}
	delete(tables, m.table)
	byName := func(a, b *schema.Table) int { return cmp.Compare(a.Name, b.Name) }
	return slices.SortedFunc(maps.Keys(tables), byName)
}

// typeOf returns the registration of a table's type.
func (b *Box) typeOf(table *schema.Table) (*model, bool) {
	m := b.modelOfType(table.Type)
	return m, m != nil
}

func embedsTracked(typ reflect.Type) bool {
	return slices.ContainsFunc(reflect.VisibleFields(typ), func(f reflect.StructField) bool {
		return f.Anonymous && f.Type == reflect.TypeFor[Tracked]()
	})
}

func list(names []string) string { return strings.Join(names, ", ") }
