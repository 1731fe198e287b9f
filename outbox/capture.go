package outbox

import (
	"context"
	"encoding/json"
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// guard is the hook on the user's bun.DB. It refuses writes to registered tables that are in no session.
type guard struct{ box *Box }

func (g guard) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	if isExplicit(ctx) || sessionOf(event.DB) != nil {
		return ctx
	}
	for _, w := range writesOf(event) {
		if g.box.modelOf(w.table) != nil {
			return refuse(ctx, event, outsideTx(w.verb, w.table))
		}
	}
	return ctx
}

func (guard) AfterQuery(ctx context.Context, event *bun.QueryEvent) { explain(ctx, event) }

// BeforeQuery lets a statement pass if it writes no registered table, or if AfterQuery will know its rows.
func (s *session) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing {
		return ctx
	}
	if event.IQuery == nil && startsWith(event.Query, "ROLLBACK") {
		s.forgetStates() // to a savepoint
	}
	if m := s.box.canonical(event); m != nil && !isExplicit(ctx) {
		s.expect(event, captured{m, conflictFails, m.savesRead(event.DB)})
		return ctx
	}
	tracked := 0
	for _, w := range writesOf(event) {
		m := s.box.modelOf(w.table)
		if m == nil {
			continue
		}
		tracked++
		if isExplicit(ctx) {
			s.owed[m] = unseen(w.verb, w.table, "it ran under outbox.Explicit and no "+m.table.TypeName+
				" was reported with Saved or Deleted")
			continue
		}
		reason := m.whyUnseen(event, w)
		if tracked > 1 {
			reason = "it is one of several writes in one statement"
		}
		if reason != "" {
			err := unseen(w.verb, w.table, reason)
			if s.refused == nil {
				s.refused = err
			}
			return refusal{ctx, err}
		}
		s.expect(event, captured{m, conflictOf(event), false})
	}
	return ctx
}

// expect tells AfterQuery of a statement that is captured.
func (s *session) expect(event *bun.QueryEvent, c captured) {
	if event.Stash == nil {
		event.Stash = map[any]any{}
	}
	event.Stash[s] = c
}

// AfterQuery marks the rows of a captured statement that changed something.
func (s *session) AfterQuery(_ context.Context, event *bun.QueryEvent) {
	c, ok := event.Stash[s].(captured)
	if !ok || event.Err != nil {
		return
	}
	affected := int64(-1) // unknown
	if event.Result != nil {
		if n, err := event.Result.RowsAffected(); err == nil {
			affected = n
		}
	}
	if affected == 0 {
		return
	}
	rows := reflect.ValueOf(event.Model.Value())
	_, insert := event.IQuery.(*bun.InsertQuery)
	inserted := insert && (c.conflict == conflictFails || c.conflict == conflictSkips && affected == countRows(rows))
	s.mu.Lock()
	defer s.mu.Unlock()
	err := eachRow(rows, func(row reflect.Value) error {
		var state json.RawMessage
		if c.whole {
			state = c.model.known(row, insert)
		}
		marked, err := s.mark(c.model, row, inserted, state)
		if err == nil && !marked && !insert {
			err = unseen("UPDATE", c.model.table.Name, "a row it was given has no primary key")
		}
		return err
	})
	if err != nil && s.refused == nil {
		s.refused = err // a hook cannot return it: the commit does
	}
}

// captured is what BeforeQuery tells AfterQuery of a statement.
type captured struct {
	model    *model
	conflict onConflict
	whole    bool // the rows are, after the statement, what their model says
}

// onConflict is what an INSERT does with a row that is there already. Only the first leaves no doubt that its rows are
// new.
type onConflict int

const (
	conflictFails onConflict = iota
	conflictSkips
	conflictUpdates
)

func conflictOf(event *bun.QueryEvent) onConflict {
	if _, updates := conflictClause(event); updates {
		return conflictUpdates
	}
	if strings.Contains(event.Query, " ON ") || startsWith(event.Query, "INSERT IGNORE") {
		return conflictSkips
	}
	return conflictFails
}

// conflictClause reads a whole statement only where there may be something to find.
func conflictClause(event *bun.QueryEvent) (columns []string, updates bool) {
	if !strings.Contains(event.Query, " ON ") {
		return nil, false
	}
	return conflict(tokensOf(event))
}

// countRows is how many rows a model names.
func countRows(rows reflect.Value) int64 {
	if rows = reflect.Indirect(rows); rows.Kind() == reflect.Slice {
		return int64(rows.Len())
	}
	return 1
}

// whyUnseen says why the rows of a write are not known from its model, or nothing where they are.
func (m *model) whyUnseen(event *bun.QueryEvent, w write) string {
	switch event.IQuery.(type) {
	case *bun.InsertQuery, *bun.UpdateQuery, *bun.DeleteQuery:
	case nil, *bun.RawQuery:
		return "raw SQL does not say which rows it touches"
	default:
		return "only NewInsert, NewUpdate and NewDelete are captured"
	}
	given, isModel := event.Model.(bun.TableModel)
	switch {
	case !isModel:
		return "the statement has no bun model"
	case given.Table().Type != m.table.Type:
		return "its model is " + given.Table().TypeName + ", the registered one is " + m.table.TypeName
	case !reflect.Indirect(reflect.ValueOf(event.Model.Value())).IsValid():
		return "its model is a nil pointer, so its rows are unknown"
	}
	switch event.IQuery.(type) {
	case *bun.InsertQuery:
		return m.whyInsertUnseen(event, w)
	case *bun.UpdateQuery:
		for _, column := range assigned(tokensOf(event)) {
			if m.isKeyColumn(column) {
				return "it changes the primary key " + strings.ToLower(column)
			}
		}
	}
	return m.whyWhereUnseen(event)
}

func (m *model) isKeyColumn(name string) bool {
	return slices.ContainsFunc(m.table.PKs, func(pk *schema.Field) bool { return strings.EqualFold(pk.Name, name) })
}

func (m *model) whyInsertUnseen(event *bun.QueryEvent, w write) string {
	if w.verb != "INSERT" {
		return w.verb + " may remove rows that its model does not name"
	}
	for t := range tokensOf(event) {
		if t.is("VALUES") || t.is("DEFAULT") {
			break
		}
		if t.is("SELECT") {
			return "it inserts the rows of a SELECT, which its model does not name"
		}
	}
	columns, updates := conflictClause(event)
	if !updates || len(columns) == len(m.table.PKs) && every(columns, m.isKeyColumn) {
		return ""
	}
	return "it may update a row other than the one its model names: its conflict target is not the primary key"
}

func every(names []string, holds func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !holds(name) })
}

// whyWhereUnseen accepts only statements with WherePK: their text ends the WHERE clause with the condition that bun
// writes for it, as one more AND. Further conditions can only narrow it. bun puts those into parentheses, so that the
// same text inside one of them is not at the end.
func (m *model) whyWhereUnseen(event *bun.QueryEvent) string {
	rows := reflect.Indirect(reflect.ValueOf(event.Model.Value()))
	for _, condition := range m.keyConditions(event.DB, rows) {
		at := strings.LastIndex(event.Query, condition)
		if at < 0 || !endsWhere(event.Query[at+len(condition):]) {
			continue
		}
		before := event.Query[:at]
		if strings.HasSuffix(before, " WHERE ") || strings.HasSuffix(before, " AND ") {
			return ""
		}
	}
	return "its WHERE is not by primary key (WherePK), so it may touch rows that its model does not name"
}

func endsWhere(rest string) bool {
	return rest == "" || strings.HasPrefix(rest, " RETURNING ") || strings.HasPrefix(rest, " ORDER BY ") || strings.HasPrefix(rest, " LIMIT ")
}

// keyConditions writes the condition of WherePK as bun does, with and without the table's alias, and for slices also
// that of Bulk.
func (m *model) keyConditions(db *bun.DB, rows reflect.Value) []string {
	var conditions []string
	for _, alias := range []string{string(m.table.SQLAlias) + ".", ""} {
		if rows.Kind() == reflect.Slice {
			conditions = append(conditions, m.sliceCondition(db, rows, alias), m.bulkCondition(alias))
			continue
		}
		parts := make([]string, len(m.table.PKs))
		for i, pk := range m.table.PKs {
			parts[i] = alias + string(pk.SQLName) + " = " + string(pk.AppendValue(db.QueryGen(), nil, rows))
		}
		conditions = append(conditions, "("+strings.Join(parts, " AND ")+")")
	}
	return conditions
}

func (m *model) sliceCondition(db *bun.DB, rows reflect.Value, alias string) string {
	parenthesise := func(list []string) string {
		if len(list) == 1 {
			return list[0]
		}
		return "(" + strings.Join(list, ", ") + ")"
	}
	names := make([]string, len(m.table.PKs))
	for i, pk := range m.table.PKs {
		names[i] = alias + string(pk.SQLName)
	}
	keys := make([]string, rows.Len())
	for k := range keys {
		values := make([]string, len(m.table.PKs))
		for i, pk := range m.table.PKs {
			values[i] = string(pk.AppendValue(db.QueryGen(), nil, reflect.Indirect(rows.Index(k))))
		}
		keys[k] = parenthesise(values)
	}
	return parenthesise(names) + " IN (" + strings.Join(keys, ", ") + ")"
}

func (m *model) bulkCondition(alias string) string {
	parts := make([]string, len(m.table.PKs))
	for i, pk := range m.table.PKs {
		parts[i] = alias + string(pk.SQLName) + " = _data." + string(pk.SQLName)
	}
	return "(" + strings.Join(parts, " AND ") + ")"
}

// writesOf lists the tables that a statement changes. A builder's statement without WITH changes only the one it
// begins with; reading on would walk through all the rows of a bulk insert.
func writesOf(event *bun.QueryEvent) []write {
	tokens := tokensOf(event)
	switch event.IQuery.(type) {
	case *bun.SelectQuery, *bun.InsertQuery, *bun.UpdateQuery, *bun.DeleteQuery:
		if !startsWith(event.Query, "WITH") {
			tokens = firstTokens(tokens, 12)
		}
	}
	return writes(tokens)
}

func startsWith(query, word string) bool {
	for len(query) > 0 && strings.HasPrefix(query, "/*") { // bun's comments
		query = strings.TrimLeft(query[endAt(query, 2, "*/"):], " ")
	}
	return len(query) >= len(word) && strings.EqualFold(query[:len(word)], word)
}

func firstTokens(tokens iter.Seq[token], n int) iter.Seq[token] {
	return func(yield func(token) bool) {
		left := n
		for t := range tokens {
			if left--; left < 0 || !yield(t) {
				return
			}
		}
	}
}

func tokensOf(event *bun.QueryEvent) iter.Seq[token] {
	return lex(event.Query, event.DB.Dialect().Name() == dialect.MySQL)
}
