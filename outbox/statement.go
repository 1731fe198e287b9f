package outbox

import (
	"iter"
	"strings"
)

// assigned lists the columns that the SET clause of a single UPDATE, or of ON CONFLICT, assigns:
// one by one, or several in parentheses.
func assigned(tokens iter.Seq[token]) []string {
	var columns, list []string
	var prev token
	depth, inSet, inList := 0, false, false
	for t := range tokens {
		switch {
		case t.text == "(" && !t.quoted:
			inList = inSet && depth == 0 && (prev.is("SET") || prev.is(","))
			list = nil
			depth++
		case t.text == ")" && !t.quoted:
			depth--
		case t.is("SET") && depth == 0:
			inSet = true
		case inSet && depth == 0 && (t.is("WHERE") || t.is("FROM") || t.is("RETURNING")):
			return columns
		case inList && depth == 1 && t.name:
			list = append(list, t.text)
		case inSet && depth == 0 && t.is("=") && prev.text == ")" && inList:
			columns, inList = append(columns, list...), false
		case inSet && depth == 0 && t.is("=") && prev.name:
			columns = append(columns, prev.text)
		}
		prev = t
	}
	return columns
}

// conflict reads the ON CONFLICT clause of an INSERT: its columns, and whether it updates the row
// it met.
func conflict(tokens iter.Seq[token]) (columns []string, updates bool) {
	var prev token
	in := false
	for t := range tokens {
		switch {
		case prev.is("ON") && (t.is("CONFLICT") || t.is("DUPLICATE")):
			in, columns, updates = true, nil, false
		case in && (prev.is("DO") || prev.is("KEY")):
			updates, in = t.is("UPDATE"), false
		case in && t.name && !t.is("DO") && !t.is("KEY"):
			columns = append(columns, t.text)
		}
		prev = t
	}
	return columns, updates
}

func endAt(sql string, from int, mark string) int {
	if at := strings.Index(sql[min(from, len(sql)):], mark); at >= 0 {
		return from + at + len(mark)
	}
	return len(sql)
}
