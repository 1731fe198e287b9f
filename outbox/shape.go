package outbox

import (
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// This file tells from the text of a builder's statement whether its rows are those that its model
// names.

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
		return "its model is " + given.Table().TypeName + ", the registered one is " +
			m.table.TypeName
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
	return slices.ContainsFunc(m.table.PKs, func(pk *schema.Field) bool {
		return strings.EqualFold(pk.Name, name)
	})
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
	if updates {
		for _, column := range assigned(tokensOf(event)) {
			if m.isKeyColumn(column) {
				return "its DO UPDATE changes the primary key " + strings.ToLower(column)
			}
		}
	}
	if !updates || len(columns) == len(m.table.PKs) && every(columns, m.isKeyColumn) {
		return ""
	}
	return "it may update a row other than the one its model names: its conflict target is not " +
		"the primary key"
}

func every(names []string, holds func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !holds(name) })
}

// whyWhereUnseen accepts only statements with WherePK: their text ends the WHERE clause with the
// condition that bun writes for it, as one more AND. Further conditions can only narrow it. bun
// puts those into parentheses, so that the same text inside one of them is not at the end.
func (m *model) whyWhereUnseen(event *bun.QueryEvent) string {
	rows := reflect.Indirect(reflect.ValueOf(event.Model.Value()))
	for _, condition := range m.keyConditions(event.DB, rows) {
		at := strings.LastIndex(event.Query, condition)
		if at < 0 || !endsWhere(event.Query[at+len(condition):]) {
			continue
		}
		before := event.Query[:at]
		if strings.HasSuffix(before, " WHERE ") || strings.HasSuffix(before, " AND ") {
			if strings.HasSuffix(condition, "_data."+
				string(m.table.PKs[len(m.table.PKs)-1].SQLName)+")") &&
				!m.namesBulk(event, rows) {
				return "its _data has other keys than its model"
			}
			return ""
		}
	}
	return "its WHERE is not by primary key (WherePK), so it may touch rows that its model does " +
		"not name"
}

func endsWhere(rest string) bool {
	return rest == "" || strings.HasPrefix(rest, " RETURNING ") ||
		strings.HasPrefix(rest, " ORDER BY ") || strings.HasPrefix(rest, " LIMIT ")
}

// keyConditions writes the condition of WherePK as bun does, with and without the table's alias,
// and for slices also that of Bulk.
func (m *model) keyConditions(db *bun.DB, rows reflect.Value) []string {
	var conditions []string
	for _, alias := range []string{string(m.table.SQLAlias) + ".", ""} {
		if rows.Kind() == reflect.Slice {
			conditions = append(conditions, m.sliceCondition(db, rows, alias),
				m.bulkCondition(alias))
			continue
		}
		parts := make([]string, len(m.table.PKs))
		for i, pk := range m.table.PKs {
			parts[i] = alias + string(pk.SQLName) + " = " +
				string(pk.AppendValue(db.QueryGen(), nil, rows))
		}
		conditions = append(conditions, "("+strings.Join(parts, " AND ")+")")
	}
	return conditions
}

// namesBulk says that the keys in the VALUES of a Bulk are those of its model: _data may as well be
// the caller's own.
func (m *model) namesBulk(event *bun.QueryEvent, rows reflect.Value) bool {
	// MariaDB's is an UPDATE of several tables, which is refused as such
	if backslashEscapes(event) {
		return true
	}
	query := event.Query[afterComments(event.Query):]
	const begin, marker = `WITH "_data" (`, ") AS (VALUES ("
	end := strings.Index(query, marker)
	if !strings.HasPrefix(query, begin) || end < 0 {
		return false
	}
	columns := strings.Split(query[len(begin):end], ", ")
	n, pos := 0, end+len(marker)
	for more := true; more; n++ {
		var values []string
		values, pos, more = valueRow(query, pos, backslashEscapes(event))
		if len(values) != len(columns) || n == rows.Len() {
			return false
		}
		for _, pk := range m.table.PKs {
			at := slices.Index(columns, string(pk.SQLName))
			if at < 0 {
				return false
			}
			key := string(pk.AppendValue(event.DB.QueryGen(), nil, reflect.Indirect(rows.Index(n))))
			if values[at] != key && !strings.HasPrefix(values[at], key+"::") {
				return false
			}
		}
	}
	return n == rows.Len()
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

// judgementOf says what a statement may write. What bun writes without WITH is one statement,
// whatever is in its expressions.
func judgementOf(event *bun.QueryEvent) judgement {
	j := judge(event.Query, event.DB.Dialect().Name())
	switch event.IQuery.(type) {
	case *bun.SelectQuery, *bun.InsertQuery, *bun.UpdateQuery, *bun.DeleteQuery:
		if !startsWith(event.Query, "WITH") {
			j.denied = ""
		}
	}
	return j
}

// firstWord names a statement in an error.
func firstWord(event *bun.QueryEvent) string {
	for t := range tokensOf(event) {
		if t.name {
			return t.text
		}
	}
	return "statement"
}

func startsWith(query, word string) bool {
	for len(query) > 0 && strings.HasPrefix(query, "/*") { // bun's comments
		query = strings.TrimLeft(query[endAt(query, 2, "*/"):], " ")
	}
	return len(query) >= len(word) && strings.EqualFold(query[:len(word)], word)
}

func tokensOf(event *bun.QueryEvent) iter.Seq[token] {
	return lex(event.Query, event.DB.Dialect().Name())
}
