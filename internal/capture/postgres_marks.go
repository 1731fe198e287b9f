package capture

import (
	"fmt"
	"strings"
)

// target is a table that gets triggers for a model: its own one, one of its children, or one whose
// rows belong to it.
type target struct {
	name        string // quoted and qualified
	partitioned bool
	partition   bool
	touch       *Touch // nil for the model's own rows
}

// event is what a trigger stands for: its letter is part of names.
type event struct{ letter, verb, tables string }

var events = []event{
	{"i", "INSERT", "NEW TABLE AS cqrsync_new"},
	{"u", "UPDATE", "OLD TABLE AS cqrsync_old NEW TABLE AS cqrsync_new"},
	{"d", "DELETE", "OLD TABLE AS cqrsync_old"},
}

// marker is the name of the function that marks for a target.
func (p place) marker(m Model, t target, letter string) string {
	about := []string{m.ID}
	if t.touch != nil {
		about = append(about, t.touch.Table, strings.Join(t.touch.names(), ","))
	}
	if letter == "t" {
		about = append(about, t.name) // whose rows it reads
	}
	return p.name("outbox_mark_" + letter + "_" + short(about...))
}

func (t Touch) names() []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// trigger is the name of a target's trigger. place says whose it is: two outboxes may capture one
// table under one id.
func (m Model) trigger(t target, letter, place string) string {
	about := []string{place, m.ID}
	if t.touch != nil {
		about = append(about, t.touch.Table, strings.Join(t.touch.names(), ","))
	}
	return "cqrsync_" + letter + "_" + short(about...)
}

// markers are the functions of a target: three for whole statements, one for single rows, one for
// TRUNCATE.
//
// Statements mark all their rows at once, because a function per row makes a large one several
// times as slow. Two kinds of rows come one by one: those that logical replication applies, which
// runs no triggers of statements, and those of partitioned tables, whose row triggers alone stand
// on each partition that will ever be made.
func (p place) markers(m Model, t target) []string {
	var statements []string
	for _, e := range events {
		statements = append(statements, m.function(p.marker(m, t, e.letter), p.markStatement(m, t, e))...)
	}
	statements = append(statements, m.function(p.marker(m, t, "r"), p.markRow(m, t))...)
	return append(statements, m.function(p.marker(m, t, "t"), p.markTruncate(m, t))...)
}

// function makes a trigger's function. Only where it prints values of columns do settings matter to
// it; each costs a microsecond.
func (m Model) function(name, body string) []string {
	settings := []string{path, "jit = off"}
	if len(m.Track) > 0 {
		settings = append(settings, pinned...)
	}
	return []string{
		"CREATE OR REPLACE FUNCTION " + name + "() RETURNS trigger\n" +
			"LANGUAGE plpgsql SECURITY DEFINER SET " + strings.Join(settings, " SET ") +
			" AS $cqrsync$\n" + body + "\n$cqrsync$",
		"COMMENT ON FUNCTION " + name + "() IS " + literal(markComment(m.ID)),
	}
}

// keyIn is what the rows of a target say about the key of the model.
func (m Model) keyIn(t target, row string) string {
	if t.touch == nil {
		return keyText(m.Key, row)
	}
	return keyText(t.touch.Columns, row)
}

// owned is a condition: the row belongs to somebody.
func (t target) owned(row string) string {
	if t.touch == nil {
		return ""
	}
	var not []string
	for _, c := range t.touch.Columns {
		not = append(not, row+"."+quote(c.Name)+" IS NOT NULL")
	}
	return " WHERE " + strings.Join(not, " AND ")
}

// begin notes whether the transaction has marks already, before the function makes some.
func (p place) begin(from string) string {
	return `DECLARE
	_first boolean;
BEGIN
	IF NOT EXISTS (SELECT FROM ` + from + `) THEN
		RETURN NULL;
	END IF;
	_first := NOT EXISTS (SELECT FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current());
`
}

func (p place) insert(m Model, from string) string {
	return `	INSERT INTO ` + p.name("outbox_marks") + ` (xid, first, model, key, op, old)
		SELECT txid_current(), _first AND row_number() OVER () = 1,
			` + literal(m.ID) + `, k.key, k.op, k.old
	FROM (` + from + `) AS k;
	RETURN NULL;
END`
}

func (p place) markStatement(m Model, t target, e event) string {
	some := "cqrsync_new"
	if e.letter == "d" {
		some = "cqrsync_old"
	}
	if t.touch != nil {
		return p.begin(some) + p.insert(m, t.touched(m, e))
	}
	var from string
	switch e.letter {
	case "i":
		from = "SELECT " + m.keyIn(t, "n") +
			` AS key, 'i'::"char" AS op, NULL::json AS old FROM cqrsync_new AS n`
	case "d":
		from = "SELECT " + m.keyIn(t, "o") +
			` AS key, 'd'::"char" AS op, ` + m.oldValues("o") + " AS old FROM cqrsync_old AS o"
	default: // which old row became which new one is not known, where a key changes
		from = `SELECT coalesce(` + m.keyIn(t, "n") + `, ` + m.keyIn(t, "o") + `) AS key,
			(CASE WHEN o.` + quote(m.Key[0].Name) + ` IS NULL THEN 'i'
				WHEN n.` + quote(m.Key[0].Name) + ` IS NULL THEN 'd'
				ELSE 'u' END)::"char" AS op, ` + m.oldValues("o") + ` AS old
		FROM cqrsync_new AS n FULL JOIN cqrsync_old AS o ON ` + m.sameKey("n", "o")
	}
	return p.begin(some) + p.insert(m, from)
}

// sameKey is a condition: two rows have one key, spelled alike.
func (m Model) sameKey(a, b string) string {
	var all []string
	for _, c := range m.Key {
		if c.Kind == Integer || c.Kind == UUID {
			all = append(all, a+"."+quote(c.Name)+" = "+b+"."+quote(c.Name))
		} else {
			all = append(all, c.keyPart(a)+` COLLATE "C" = `+c.keyPart(b))
		}
	}
	return strings.Join(all, " AND ")
}

func (m Model) oldValues(row string) string {
	if len(m.Track) == 0 {
		return "NULL::json"
	}
	return "(" + m.trackedObject(row) + ")::json"
}

// touched are the keys that the rows of a statement belong to, before and after.
func (t target) touched(m Model, e event) string {
	side := func(table string) string {
		return "SELECT " + m.keyIn(t, "r") + " AS key FROM " + table + " AS r" + t.owned("r")
	}
	keys := side("cqrsync_new")
	switch e.letter {
	case "d":
		keys = side("cqrsync_old")
	case "u":
		keys += " UNION " + side("cqrsync_old")
	}
	return `SELECT key, 't'::"char" AS op, NULL::json AS old
		FROM (SELECT DISTINCT key FROM (` + keys + `) AS s) AS d`
}

// markRow marks for one row.
func (p place) markRow(m Model, t target) string {
	begin := `DECLARE
	_first boolean := NOT EXISTS (
		SELECT FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current());
`
	insert := func(row, op, old, also string) string {
		condition := t.owned(row)
		if also != "" && condition == "" {
			condition = " WHERE " + also
		} else if also != "" {
			condition += " AND " + also
		}
		return `		INSERT INTO ` + p.name("outbox_marks") + ` (xid, first, model, key, op, old)
		SELECT txid_current(), _first, ` + literal(m.ID) + `, ` + m.keyIn(t, row) + `,
			` + op + `, ` + old + condition + `;
		_first := _first AND NOT FOUND;
`
	}
	op := func(letter string) string {
		if t.touch != nil {
			letter = "t"
		}
		return literal(letter)
	}
	old := "NULL"
	if t.touch == nil {
		old = m.oldValues("OLD")
	}
	changed := m.keyIn(t, "OLD") + " IS DISTINCT FROM " + m.keyIn(t, "NEW")
	kept := "CASE WHEN " + changed + " THEN " + op("i") + " ELSE " + op("u") + " END"
	values := "CASE WHEN " + changed + " THEN NULL ELSE " + old + " END"
	if t.touch != nil {
		values = "NULL"
	}
	return begin + `BEGIN
	IF TG_OP = 'INSERT' THEN
` + insert("NEW", op("i"), "NULL", "") + `	ELSIF TG_OP = 'DELETE' THEN
` + insert("OLD", op("d"), old, "") + `	ELSE
` + insert("OLD", op("d"), old, changed) + insert("NEW", kept, values, "") + `	END IF;
	RETURN NULL;
END`
}

// markTruncate marks all rows as deleted, or refuses: whoever empties a table by mistake would
// empty all its copies.
func (p place) markTruncate(m Model, t target) string {
	if !m.Truncates {
		return fmt.Sprintf(`BEGIN
	RAISE EXCEPTION 'cqrsync: TRUNCATE of table %% is refused: its copies at the replicas `+
			`of model %% would be emptied', TG_TABLE_NAME, %s
		USING HINT = 'DELETE FROM the table sends a DELETE for each row; `+
			`truncate: deletes in cqrsync.yaml makes TRUNCATE do so.';
END`, literal(m.ID))
	}
	from := "SELECT " + m.keyIn(t, "r") +
		` AS key, 'd'::"char" AS op, ` + m.oldValues("r") + " AS old FROM " + t.name + " AS r"
	if t.touch != nil {
		from = `SELECT key, 't'::"char" AS op, NULL::json AS old FROM (` +
			`SELECT DISTINCT ` + m.keyIn(t, "r") + " AS key FROM " +
			t.name + " AS r" + t.owned("r") + ") AS d"
	}
	return p.begin(t.name) + p.insert(m, from)
}

// wanted is a trigger that a target must have.
type wanted struct {
	table, name, function string
	create                string // what follows CREATE TRIGGER name; of a row's trigger its statements
	when, event           string // of a row's trigger
	enable                string // ALWAYS, or REPLICA
	state                 string // the same in pg_trigger.tgenabled
}

func (p place) triggers(m Model, t target) []wanted {
	var all []wanted
	add := func(letter, when, rest, enable, state string) {
		all = append(all, wanted{
			table: t.name, name: m.trigger(t, letter, p.name("")), function: p.marker(m, t, letter),
			create: when + " ON " + t.name + " " + rest, enable: enable, state: state,
		})
	}
	switch {
	case t.partition: // its rows have the triggers of the table that it is a part of
	case t.partitioned:
		add("r", "AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW", "ALWAYS", "A")
	default:
		for _, e := range events {
			add(e.letter, "AFTER "+e.verb, "REFERENCING "+e.tables+" FOR EACH STATEMENT", "ALWAYS", "A")
		}
		add("r", "AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW", "REPLICA", "R")
	}
	add("t", "BEFORE TRUNCATE", "FOR EACH STATEMENT", "ALWAYS", "A")
	return all
}
