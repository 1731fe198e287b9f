package outbox

import (
	"context"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
)

// addParentsWhere is addParents for a statement whose rows only its WHERE tells: the rows that the
// same condition finds before it runs. known is false where its text is not a condition on one
// table.
func (s *session) addParentsWhere(
	ctx context.Context, event *bun.QueryEvent, r related, c *captured,
) (known bool, err error) {
	condition := conditionOf(event)
	if condition == "" {
		return false, nil
	}
	found := reflect.New(reflect.SliceOf(r.table.Type))
	query := s.quiet().NewSelect().Model(found.Interface()).Where("?", bun.Safe(condition))
	if r.table.SoftDeleteField != nil {
		query = query.WhereAllWithDeleted() // the condition has it
	}
	if err := current(query).Scan(ctx); err != nil {
		return false, fmt.Errorf("read rows of %s by the statement's condition: %w", r.table.Name,
			err)
	}
	var keys []bun.TupleValues
	for i := range found.Elem().Len() {
		row := found.Elem().Index(i)
		keys = append(keys, bun.Tuple(keyValues(r.table, row)))
		if parent, ok := r.parentOf(row); ok {
			c.parents = append(c.parents, touchedRow{model: r.parent, row: parent, how: guessed})
		}
	}
	if _, update := event.IQuery.(*bun.UpdateQuery); update && len(keys) > 0 && r.assigned(event) {
		c.moved = append(c.moved, moved{r, keys})
	}
	c.counted = append(c.counted, counted{r, int64(len(keys))})
	return true, nil
}

// counted is how many rows of a related table a statement's condition found. More may have been
// committed by others before the statement ran: then nobody knows whose they are.
type counted struct {
	related related
	rows    int64
}

// conditionOf is the text behind the WHERE of a builder's UPDATE or DELETE of one table, empty for
// any other statement.
func conditionOf(event *bun.QueryEvent) string {
	l := newLexer(event.Query, event.DB.Dialect().Name())
	verb, more := l.next()
	depth, start, end, set := 0, -1, len(event.Query), false
	for before := l.at; more; before = l.at {
		var t token
		t, more = l.next()
		switch {
		case t.text == "(" && !t.quoted:
			depth++
		case t.text == ")" && !t.quoted:
			depth--
		case depth > 0:
		case t.is(";"), t.is("USING"), t.is("JOIN"), t.is("FROM") &&
			!verb.is("DELETE"), t.is(",") && !set && start < 0:
			return "" // more than one table, or statement
		case t.is("SET"):
			set = true
		case t.is("WHERE"):
			start = l.at
		case start >= 0 && (t.is("RETURNING") || t.is("ORDER") || t.is("LIMIT")):
			end = min(end, before)
		}
	}
	if start < 0 || l.unclear != "" || !verb.is("UPDATE") && !verb.is("DELETE") {
		return ""
	}
	return event.Query[start:end]
}
