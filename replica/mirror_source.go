package replica

import (
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/internal/store"
)

// fewRows are written as they are read best, because errors and logs quote them.
const fewRows = 10

// source is rows of one set of columns as SQL that an INSERT takes: VALUES, or a SELECT from an array per column where the
// database knows such, because PostgreSQL parses and plans that in half the time.
func source(set *columnSet, rows []*row, types map[string]string) string {
	if len(rows) > fewRows && types != nil {
		if text, ok := fromArrays(set, rows, types); ok {
			return text
		}
	}
	tuples := make([]string, len(rows))
	for i, r := range rows {
		tuples[i] = r.tuple()
	}
	return "VALUES " + strings.Join(tuples, ", ")
}

// fromArrays is not ok where a value is not one that an array can carry to the same effect.
func fromArrays(set *columnSet, rows []*row, types map[string]string) (text string, ok bool) {
	arrays := make([]string, len(set.fields))
	for i, f := range set.fields {
		typ := types[f.Name]
		if typ == "" || strings.HasSuffix(typ, "[]") {
			return "", false // unnest would take the inner arrays apart too
		}
		var a store.Array
		for _, r := range rows {
			if !addLiteral(&a, r.values[i], typ) {
				return "", false
			}
		}
		arrays[i] = "'" + strings.ReplaceAll(a.Literal(), "'", "''") + "'::" + typ + "[]"
	}
	return "SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ")", true
}

// addLiteral adds a value that stands as SQL to an array of a type. It is false where the value is an expression, or a
// literal of another type: an assignment would convert that, the type's input may not.
func addLiteral(a *store.Array, literal, typ string) bool {
	switch {
	case literal == "NULL":
		a.AddNull()
		return true
	case len(literal) >= 2 && literal[0] == '\'' && literal[len(literal)-1] == '\'':
		inner := literal[1 : len(literal)-1]
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
	if !takesLiteral(literal, typ) {
		return false
	}
	a.Add(literal)
	return true
}

func takesLiteral(literal, typ string) bool {
	switch typ {
	case "boolean":
		return literal == "TRUE" || literal == "FALSE"
	case "smallint", "integer", "bigint":
		_, err := strconv.ParseInt(literal, 10, 64)
		return err == nil
	case "numeric", "real", "double precision":
		_, err := strconv.ParseFloat(literal, 64)
		return err == nil
	default:
		return false
	}
}
