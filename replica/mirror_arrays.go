package replica

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// fewRows are written as they are read best, because errors and logs quote them.
const fewRows = 10

// saveArrays upserts rows from an array per column, where the database knows such: PostgreSQL
// parses and plans that in half the time that VALUES take. It has done nothing where the rows are
// few, where a value is none that an array can carry to the same effect, or where a column's type
// is another one than when the catalog was read: a time would lose its hours on the way through the
// type date that its column had before.
func (m *mirror) saveArrays(
	ctx context.Context, tx bun.Tx, set *columnSet, rows []*row, shape *mirrorShape,
) (done bool, err error) {
	if len(rows) <= fewRows || shape.types == nil || set.update == "" {
		return false, nil
	}
	arrays, types := make([]string, len(set.fields)), make([]string, len(set.fields))
	for i, f := range set.fields {
		typ := shape.types[f.Name]
		if typ == "" || strings.HasSuffix(typ, "[]") {
			return false, nil // unnest would take the inner arrays apart too
		}
		var a db.Array
		for _, r := range rows {
			if !addLiteral(&a, r.values[i], typ) {
				return false, nil
			}
		}
		arrays[i] = literal(a.Literal()) + "::" + typ + "[]"
		types[i] = "(" + literal(f.Name) + ", " + literal(typ) + "::regtype)"
	}
	result, err := m.upsert(ctx, tx, set, fmt.Sprintf(`SELECT * FROM unnest(%s)
		WHERE (SELECT count(*) FROM pg_attribute
		WHERE attrelid = %s::regclass AND (attname, atttypid) IN (%s)) = %d`,
		strings.Join(arrays, ", "), literal(string(m.table.SQLName)), strings.Join(types,
			", "), len(types)))
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	if n == 0 {
		m.stale.Store(true)
		other := *shape
		other.types = nil
		m.shape.Store(&other)
	}
	return n > 0, err
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// addLiteral adds a value that stands as SQL to an array of a type. It is false where the value is
// an expression, or a literal of another type: an assignment would convert that, the type's input
// may not.
func addLiteral(a *db.Array, value, typ string) bool {
	switch {
	case value == "NULL":
		a.AddNull()
		return true
	case len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'':
		inner := value[1 : len(value)-1]
		if strings.IndexByte(inner, '\'') >= 0 {
			parts := strings.Split(inner, "''")
			for _, part := range parts {
				if strings.IndexByte(part, '\'') >= 0 {
					return false
				}
			}
			inner = strings.Join(parts, "'")
		}
		a.Add(inner)
		return true
	}
	if !takesLiteral(value, typ) {
		return false
	}
	a.Add(value)
	return true
}

func takesLiteral(value, typ string) bool {
	switch typ {
	case "boolean":
		return value == "TRUE" || value == "FALSE"
	case "smallint", "integer", "bigint":
		_, err := strconv.ParseInt(value, 10, 64)
		return err == nil
	case "numeric", "real", "double precision":
		_, err := strconv.ParseFloat(value, 64)
		return err == nil
	default:
		return false
	}
}
