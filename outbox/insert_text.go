package outbox

import (
	"iter"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

func backslashEscapes(event *bun.QueryEvent) bool {
	return event.DB.Dialect().Name() == dialect.MySQL
}

// unreadable is the rest of a text whose values cannot be told apart.
const unreadable = "\x00"

// insertParts splits INSERT INTO t (columns) VALUES (…), (…) rest. The values are read as they are
// asked for; rest is what follows them, once they were.
func insertParts(
	query string, backslash bool,
) (columns []string, values iter.Seq[[]string], rest func() string) {
	const marker = ") VALUES ("
	query = query[afterComments(query):]
	open := strings.Index(query, " (")
	end := strings.Index(query, marker)
	if open < 0 || end < open {
		return nil, nil, nil
	}
	for name := range strings.SplitSeq(query[open+2:end], ", ") {
		columns = append(columns, strings.Trim(name, "\"`"))
	}
	pos := end + len(marker)
	failed := false
	values = func(yield func([]string) bool) {
		for more := true; more; {
			var row []string
			row, pos, more = valueRow(query, pos, backslash)
			if row == nil {
				failed = true
				return
			}
			if !yield(row) {
				return
			}
		}
	}
	return columns, values, func() string {
		if failed {
			return unreadable
		}
		return query[pos:]
	}
}

// afterComments is where a text begins behind the comments that bun puts before it.
func afterComments(query string) int {
	at := 0
	for strings.HasPrefix(query[at:], "/*") {
		at = endAt(query, at+2, "*/")
		at += len(query[at:]) - len(strings.TrimLeft(query[at:], " "))
	}
	return at
}

// valueRow reads the values of one row from behind its parenthesis, and says where the next row, if
// there are more, or else the rest begins. It returns nil where it cannot.
func valueRow(query string, at int, backslash bool) (row []string, next int, more bool) {
	depth, start := 0, at
	for i := at; i < len(query); {
		switch c := query[i]; {
		case c == '\'':
			i = literalEnd(query, i, backslash || i > 0 && (query[i-1] == 'E' || query[i-1] == 'e'))
			continue
		case c == '"' || c == '`':
			i = literalEnd(query, i, false)
			continue
		case strings.HasPrefix(query[i:], "--"), strings.HasPrefix(query[i:], "/*"), c == '#' &&
			backslash, c == ';',
			c == '$' && dollarTag(query[i:]) != "":
			return nil, 0, false
		case c == '(' || c == '[':
			depth++
		case c == ',' && depth == 0:
			row = append(row, strings.TrimSpace(query[start:i]))
			start = i + 1
		case (c == ')' || c == ']') && depth > 0:
			depth--
		case c == ')':
			row = append(row, strings.TrimSpace(query[start:i]))
			if strings.HasPrefix(query[i:], "), (") {
				return row, i + len("), ("), true
			}
			return row, i + 1, false
		}
		i++
	}
	return nil, 0, false
}

// literalEnd is the index behind the quoted text that starts at i. A doubled quote stands for
// itself.
func literalEnd(query string, i int, backslash bool) int {
	quote := query[i]
	for j := i + 1; j < len(query); j++ {
		switch {
		case query[j] == '\\' && backslash:
			j++
		case query[j] != quote:
		case j+1 < len(query) && query[j+1] == quote:
			j++
		default:
			return j + 1
		}
	}
	return len(query)
}
