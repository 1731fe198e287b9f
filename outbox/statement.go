package outbox

import (
	"iter"
	"strings"
)

// write is one table that a statement changes.
type write struct {
	verb   string
	schema string
	table  string
}

// token is a piece of SQL. A word is upper case; a quoted identifier keeps its letters.
type token struct {
	text   string
	quoted bool
	name   bool // a word or a quoted identifier
}

func (t token) is(word string) bool { return t.text == word && !t.quoted }

// writes lists the tables that a statement changes, also inside WITH and in several statements in one text. It knows
// the verbs that change rows, not SQL: where it errs, it names a table too many.
func writes(tokens iter.Seq[token]) []write {
	var (
		found   []write
		into    *collector // reads the names behind a verb
		prev    token
		first   = true // at the first word of a statement
		skipDDL bool   // CREATE TRIGGER … UPDATE ON, GRANT UPDATE ON: no rows change
	)
	for t := range tokens {
		switch {
		case t.is(";"):
			found, into = into.finish(found), nil
			first, skipDDL = true, false
		case first:
			first, skipDDL = false, ddl[t.text] && !t.quoted
		}
		if into != nil {
			if done := into.take(prev, t); done {
				found, into = into.finish(found), nil
			}
		}
		if into == nil && !skipDDL && !t.quoted && startsWrite(prev, t) {
			into = &collector{verb: t.text}
		}
		prev = t
	}
	return into.finish(found)
}

var ddl = map[string]bool{"CREATE": true, "ALTER": true, "DROP": true, "GRANT": true, "REVOKE": true, "COMMENT": true}

// startsWrite tells the verbs from the clauses that use the same words: FOR UPDATE, ON CONFLICT DO UPDATE, ON DUPLICATE
// KEY UPDATE, ON DELETE, WHEN MATCHED THEN UPDATE, INSERT OR REPLACE.
func startsWrite(prev, t token) bool {
	switch t.text {
	case "INSERT", "UPDATE", "DELETE", "REPLACE":
		switch prev.text {
		case "FOR", "DO", "KEY", "ON", "THEN", "OR":
			return prev.quoted
		}
		return true
	case "MERGE", "TRUNCATE", "COPY":
		return true
	}
	return false
}

// collector reads the table names between a verb and the word that ends them.
type collector struct {
	verb  string
	names []write
	off   bool // it was a function or an export after all
}

func (c *collector) take(prev, t token) (done bool) {
	switch {
	case !t.name:
		// A parenthesis right behind the verb is a function call: REPLACE(…), TRUNCATE(…).
		c.off = c.off || (t.text == "(" && prev.is(c.verb))
		return t.text == "(" || t.text == ")" || t.text == ";"
	case prev.text == "." && len(c.names) > 0:
		last := &c.names[len(c.names)-1]
		last.schema, last.table = last.table, t.text
	case endsNames[t.text] && !t.quoted:
		c.off = c.off || (c.verb == "COPY" && t.text == "TO")
		return t.text != "FROM" || c.verb != "DELETE"
	case beforeName[t.text] && !t.quoted:
	case prev.text == "," || prev.is(c.verb) || prev.is("FROM") || beforeName[prev.text] && !prev.quoted:
		c.names = append(c.names, write{verb: c.verb, table: t.text}) // any other name is an alias
	}
	return false
}

func (c *collector) finish(found []write) []write {
	if c == nil || c.off {
		return found
	}
	return append(found, c.names...)
}

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}

var (
	endsNames  = wordSet("SET VALUES VALUE SELECT DEFAULT WHERE USING RETURNING WITH FROM TO OVERRIDING ORDER LIMIT TABLESAMPLE")
	beforeName = wordSet("INTO ONLY TABLE OR IGNORE ROLLBACK ABORT FAIL REPLACE LOW_PRIORITY HIGH_PRIORITY DELAYED QUICK JOIN")
)

// assigned lists the columns that the SET clause of a single UPDATE, or of ON CONFLICT, assigns: one by one, or several in
// parentheses.
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

// conflict reads the ON CONFLICT clause of an INSERT: its columns, and whether it updates the row it met.
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

// lex splits SQL into words, quoted identifiers and punctuation, and leaves out literals and comments. backslash says
// that \ escapes inside quotes, as in MySQL.
func lex(sql string, backslash bool) iter.Seq[token] {
	return func(yield func(token) bool) {
		body := false // inside DO $$ … $$ the text is statements
		for i := 0; i < len(sql); {
			c := sql[i]
			var t token
			end := i + 1
			switch {
			case c == '\'':
				escapes := backslash || i > 0 && (sql[i-1] == 'E' || sql[i-1] == 'e')
				end = quotedEnd(sql, i, escapes)
			case c == '"' || c == '`':
				end = quotedEnd(sql, i, false)
				t = token{text: strings.Trim(sql[i:end], string(c)), quoted: true, name: true}
			case strings.HasPrefix(sql[i:], "--") || c == '#' && backslash:
				end = endAt(sql, i, "\n")
			case strings.HasPrefix(sql[i:], "/*"):
				end = endAt(sql, i+2, "*/")
			case c == '$' && dollarTag(sql[i:]) != "":
				tag := dollarTag(sql[i:])
				if end = i + len(tag); !body {
					end = endAt(sql, end, tag)
				}
			case isWordByte(c):
				for end < len(sql) && (isWordByte(sql[end]) || sql[end] == '$') {
					end++
				}
				t = token{text: strings.ToUpper(sql[i:end]), name: true}
				body = body || t.text == "DO" && strings.TrimSpace(sql[:i]) == ""
			case c > ' ':
				t = token{text: string(c)}
			}
			if t.text != "" && !yield(t) {
				return
			}
			i = end
		}
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// quotedEnd is the index behind the quoted text that starts at i. A doubled quote stands for itself.
func quotedEnd(sql string, i int, backslash bool) int {
	quote := sql[i]
	for j := i + 1; j < len(sql); j++ {
		switch {
		case sql[j] == '\\' && backslash:
			j++
		case sql[j] != quote:
		case j+1 < len(sql) && sql[j+1] == quote:
			j++
		default:
			return j + 1
		}
	}
	return len(sql)
}

func endAt(sql string, from int, mark string) int {
	if at := strings.Index(sql[min(from, len(sql)):], mark); at >= 0 {
		return from + at + len(mark)
	}
	return len(sql)
}

// dollarTag returns the opening tag of a dollar-quoted string, $$ or $name$, or nothing.
func dollarTag(sql string) string {
	for j := 1; j < len(sql); j++ {
		switch {
		case sql[j] == '$':
			return sql[:j+1]
		case !isWordByte(sql[j]) || j == 1 && sql[j] >= '0' && sql[j] <= '9':
			return ""
		}
	}
	return ""
}
