package capture

import (
	"strings"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
)

// flush turns the marks of one model into messages. Its two steps are those of every flush: lock
// the keys in the ledger, in their order; then read their rows, in a statement of its own, whose
// snapshot sees what the others committed who had the lock before. The rule of the ledger is that
// of outbox_record in the migrations, the outcomes are those of outbox/flush.go.
//
// The plan of a statement is made once for one row or a hundred thousand, maybe while the tables
// are empty. OFFSET 0 keeps the planner from joining in another way than row by row through the
// keys' indexes, and the ledger's rows, which are locked, are found again by their place.
func (p place) flush(m Model, table string) string {
	if m.Swept {
		return p.keep(m)
	}
	marked := p.marked(m)
	revisions := p.name("outbox_revisions")
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush_"+short(m.ID)) + `(
	_plain boolean, _first integer, _count integer, _meta json, _headers json, _correlation text
) RETURNS void LANGUAGE plpgsql SET ` + path + ` AS $cqrsync$
DECLARE
	_key text; _what text; _missing bigint;
BEGIN
` + p.flushPlain(m, table) + `	` + p.raise(m, "") + `;
	WITH m AS MATERIALIZED (
		SELECT key, bool_or(op = 'd') AS gone, bool_and(op = 't') AS touched` + m.oldest() + `
		` + marked + `
	), j AS MATERIALIZED (
		SELECT m.*, l.at, l.revision, l.after, l.updated_at, l.deleted, ` + m.present() + ` AS here,
			` + m.kept() + ` AS kept, ` + m.unsendable() + ` AS unsendable,
			` + m.data() + ` AS data` + m.now() + `
		FROM m CROSS JOIN LATERAL (
			SELECT *, ctid AS at FROM ` + revisions + ` AS l
			WHERE l.model = ` + literal(m.ID) + ` AND l.key = m.key OFFSET 0
		) AS l LEFT JOIN LATERAL (
			SELECT * FROM ` + table + ` AS t WHERE ` + keyOf(m.Key, "m.key") + ` OFFSET 0
		) AS t ON true
	), o AS MATERIALIZED (
		SELECT *, CASE
			WHEN NOT here AND (deleted OR revision = 0) THEN 'unchanged'
			WHEN here AND kept THEN 'SAVE'
			WHEN here AND (deleted OR revision = 0) THEN 'hidden'
			` + m.left() + `ELSE 'DELETE'
		END AS outcome, ` + keyJSON(m.Key, "key") + ` AS pk FROM j
	), appended AS (
		INSERT INTO ` + p.name("outbox_messages") + ` (lane, model, key, revision, after, signal,
			pk, data, previous, meta, headers, correlation_id, updated_at, keep)
		SELECT ` + m.lane("key") + `,
			` + literal(m.ID) + `, key, revision, after, outcome, pk::json,
			CASE outcome WHEN 'SAVE' THEN data ELSE '{"id":' || pk || '}' END::json,
			` + m.previous() + `, _meta, _headers, _correlation, updated_at,
			` + boolean(m.Everything || len(m.Track) > 0) + `
		FROM o WHERE outcome IN ('SAVE', 'DELETE')
	), settled AS (
		UPDATE ` + revisions + ` AS l SET
			deleted  = CASE outcome WHEN 'unchanged' THEN l.deleted ELSE outcome IN ('DELETE', 'hidden') END,
			produced = CASE WHEN outcome IN ('SAVE', 'DELETE') THEN l.produced ELSE l.after END,
			revision = CASE outcome WHEN 'unchanged' THEN l.revision - 1
				ELSE l.revision END` + m.remember() + `
		FROM o WHERE l.ctid = o.at
			AND (outcome <> 'SAVE' OR o.deleted` + m.remembers() + `)
			AND NOT (outcome = 'unchanged' AND o.revision = 0)
	), forgotten AS (
		DELETE FROM ` + revisions + ` AS l USING o
		WHERE l.ctid = o.at AND outcome = 'unchanged' AND o.revision = 0
	)
	SELECT key, unsendable INTO _key, _what FROM o
	WHERE NOT here AND NOT gone AND NOT touched OR outcome = 'SAVE' AND unsendable IS NOT NULL LIMIT 1;
` + m.complain() + `END
$cqrsync$`
}

// complain raises an exception about a row that cannot be sent.
func (m Model) complain() string {
	return `	IF _what IS NOT NULL THEN
		RAISE EXCEPTION 'cqrsync: column % of table % holds what replicas cannot read, ` +
		`in the row %', _what, ` + literal(m.Table) + `, _key
			USING HINT = 'Times lie between the years 1 and 9999.';
	ELSIF _key IS NOT NULL THEN
		RAISE EXCEPTION 'cqrsync: row % of table % was written in this transaction ` +
		`and is not found at its end', _key, ` + literal(m.Table) + `
			USING HINT = 'Row level security may hide it from the owner of the triggers, ` +
		`or a trigger was disabled meanwhile.';
	END IF;
`
}

// marked are the keys that the transaction marked of a model.
func (p place) marked(m Model) string {
	return `FROM ` + p.name("outbox_marks") + `
		WHERE xid = txid_current() AND model = ` + literal(m.ID) + ` GROUP BY key`
}

// raise locks the keys in the ledger, in their order, and draws their revisions.
func (p place) raise(m Model, also string) string {
	return `INSERT INTO ` + p.name("outbox_revisions") + ` AS l
		(model, key, revision, produced, updated_at)
	SELECT ` + literal(m.ID) + `, k.key, k.was, k.was, clock_timestamp()
	FROM (
		SELECT key, 1 - (` + wasInserted + `)::integer AS was ` + p.marked(m) + `
	) AS k ORDER BY k.key
	ON CONFLICT (model, key) DO UPDATE SET
		` + ledger.Raise(db.Postgres{}, "l.") + also
}

// lane is that of a key: a number that every database makes of it.
func (m Model) lane(key string) string {
	return `_first + ('x' || left(md5(` + literal(m.ID+":") + ` || ` + key +
		`), 8))::bit(32)::bigint % _count`
}

// keep is the flush of a model whose messages only Go can write: it keeps the marks for the sweep.
func (p place) keep(m Model) string {
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush_"+short(m.ID)) + `(
	_plain boolean, _first integer, _count integer, _meta json, _headers json, _correlation text
) RETURNS void LANGUAGE sql SET ` + path + ` AS $cqrsync$
	INSERT INTO ` + p.name("outbox_dirty") + ` (model, key, op, old, meta, headers, correlation_id)
	SELECT model, key, op, old, _meta, _headers, _correlation FROM ` + p.name("outbox_marks") + `
	WHERE xid = txid_current() AND model = ` + literal(m.ID) + ` ORDER BY id
$cqrsync$`
}

func (m Model) present() string { return "t." + quote(m.Key[0].Name) + " IS NOT NULL" }

func (m Model) kept() string {
	if m.Filter == "" {
		return "true"
	}
	return "coalesce((" + m.Filter + "), false)"
}

// left is the outcome of a row that is there, and outside the filter.
func (m Model) left() string {
	if m.KeepsCopies {
		return "WHEN here THEN 'unsent' "
	}
	return ""
}

// unsendable names the first column of the row whose value cannot travel.
func (m Model) unsendable() string {
	var cases []string
	for _, f := range m.Fields {
		if condition := f.unsendable("t"); condition != "" {
			cases = append(cases, "WHEN "+condition+" THEN "+literal(f.Column.Name))
		}
	}
	for _, r := range m.Relations {
		if condition := r.unsendable(m.Key); condition != "" {
			cases = append(cases, "WHEN "+condition+" THEN "+literal(r.Name))
		}
	}
	if cases == nil {
		return "NULL::text"
	}
	return "CASE " + strings.Join(cases, " ") + " END"
}

// Tracked columns: the values before are those of the first statement that saw them, or what the
// ledger knows where none did.

func (m Model) oldest() string {
	if len(m.Track) == 0 {
		return ""
	}
	return ", (array_agg(old ORDER BY id) FILTER (WHERE old IS NOT NULL))[1] AS old"
}

// trackedObject is what the ledger keeps of a row: the tracked columns under their own names.
func (m Model) trackedObject(row string) string {
	fields := make([]Field, len(m.Track))
	for i, f := range m.Track {
		f.Name = f.Column.Name
		fields[i] = f
	}
	return object(row, fields, nil, nil)
}

func (m Model) now() string {
	if len(m.Track) == 0 {
		return ""
	}
	return ", (" + m.trackedObject("t") + ")::json AS now, " +
		"CASE WHEN l.deleted THEN NULL ELSE coalesce(m.old, l.tracked) END AS before"
}

func (m Model) previous() string {
	if len(m.Track) == 0 {
		return "NULL::json"
	}
	var parts []string
	for _, f := range m.Track {
		old := "coalesce((before -> " + literal(f.Column.Name) + ")::text, 'null')"
		parts = append(parts, "CASE WHEN "+old+" <> (now -> "+literal(f.Column.Name)+")::text THEN "+
			literal(jsonName(f.Name)+":")+" || "+old+" END")
	}
	return "CASE outcome WHEN 'SAVE' THEN ('{' || " +
		"nullif(concat_ws(',', " + strings.Join(parts, ", ") + "), '') || '}')::json END"
}

func (m Model) remember() string {
	if len(m.Track) == 0 {
		return ""
	}
	return ",\n\t\t\ttracked = CASE outcome WHEN 'SAVE' THEN o.now ELSE l.tracked END"
}

func (m Model) remembers() string {
	if len(m.Track) == 0 {
		return ""
	}
	return " OR true"
}
