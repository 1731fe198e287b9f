package capture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
)

// place is where cqrsync's own tables and functions are. All names in functions are qualified: a
// function with the rights of its owner must not look where its caller says.
type place struct{ schema, prefix string }

func (p place) name(base string) string { return quote(p.schema) + "." + quote(p.prefix+base) }

// path is the search path of a function. The schema of temporary tables comes last, or a caller
// could put a table of his in front.
const path = "search_path = pg_catalog, pg_temp"

// marks makes two tables. outbox_dirty keeps the marks of models that are swept. outbox_marks is what the transactions that run have written. Nothing in it outlives its
// transaction, so it need not survive a crash.
//
//	first  the transaction had no other mark: this one's deferred trigger flushes all of them
//	op     i: the row appeared under the key, u: it was there before and after, d: it went away,
//	       t: something that belongs to it was written; g: a session of Go makes the messages
//	old    the tracked columns as they were before
func (p place) marks() []string {
	return []string{
		`CREATE UNLOGGED TABLE IF NOT EXISTS ` + p.name("outbox_marks") + ` (
	id    bigint GENERATED ALWAYS AS IDENTITY (CACHE 100),
	xid   bigint  NOT NULL,
	first boolean NOT NULL,
	model text COLLATE "C" NOT NULL,
	key   text COLLATE "C" NOT NULL,
	op    "char"  NOT NULL,
	old   json
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
		`CREATE INDEX IF NOT EXISTS ` + quote(p.prefix+"outbox_marks_xid") + ` ON ` + p.name("outbox_marks") + ` (xid)`,
		`CREATE TABLE IF NOT EXISTS ` + p.name("outbox_dirty") + ` (
	id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	model text   NOT NULL,
	key   text   NOT NULL,
	op    "char" NOT NULL,
	old   json
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
	}
}

// dispatcher flushes all models that the transaction marked, in the order of their ids: the one
// order in which everybody locks the ledger. It ends with the marks gone, so that it may run again
// where a transaction wants its constraints at once.
func (p place) dispatcher(models []string) string {
	var cases []string
	for _, id := range slices.Sorted(slices.Values(models)) {
		cases = append(cases, fmt.Sprintf("WHEN %s THEN\n\t\t\t\tPERFORM %s(_first, _count, _meta, _headers, _correlation);",
			literal(id), p.name("outbox_flush_"+short(id))))
	}
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush") + `() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET ` + path + ` SET row_security = off
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET ` + strings.Join(pinned, " SET ") + ` AS $cqrsync$
DECLARE
	_model text; _first integer; _count integer; _meta json; _headers json; _correlation text;
BEGIN
	IF TG_OP = 'INSERT' THEN -- stand in line once more, behind the deferred triggers of others
		UPDATE ` + p.name("outbox_marks") + ` SET first = true WHERE xid = txid_current() AND id = (
			SELECT min(id) FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current());
		RETURN NULL;
	ELSIF EXISTS (SELECT FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current() AND op = 'g') THEN
		RETURN NULL;
	END IF;
	FOR _model IN
		SELECT DISTINCT model AS m FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current() ORDER BY m
	LOOP
		IF _count IS NULL THEN
			SELECT min(lane), count(*) INTO _first, _count FROM ` + p.name("outbox_lanes") + `;
			SELECT s.meta, s.headers, s.correlation INTO _meta, _headers, _correlation
				FROM ` + p.name("outbox_settings") + `() AS s;
		END IF;
		CASE _model
			` + strings.Join(cases, "\n\t\t\t") + `
			ELSE
				RAISE EXCEPTION 'cqrsync: rows of model % are marked, and nothing makes messages of them', _model
					USING HINT = 'Run relay capture install.';
		END CASE;
	END LOOP;
	DELETE FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current();
	RETURN NULL;
END
$cqrsync$`
}

// taker hands the marks of some models to a session of Go, which makes their messages, and leaves
// those of others to the flush. Deferred triggers run before, because what they write belongs to the
// state at the commit. It runs with the rights of its caller, and so do they.
func (p place) taker() string {
	marks := p.name("outbox_marks")
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_take") + `(_models text[])
RETURNS TABLE (model text, key text, inserted boolean, gone boolean, touched boolean, old json)
LANGUAGE plpgsql SET ` + path + ` AS $cqrsync$
#variable_conflict use_column
BEGIN
	IF txid_current_if_assigned() IS NULL THEN
		RETURN; -- it has written nothing
	END IF;
	INSERT INTO ` + marks + ` (xid, first, model, key, op) VALUES (txid_current(), false, '', '', 'g');
	SET CONSTRAINTS ALL IMMEDIATE;
	RETURN QUERY WITH taken AS (
		DELETE FROM ` + marks + ` WHERE xid = txid_current() AND (model = ANY (_models) OR op = 'g') RETURNING *
	)
	SELECT t.model, t.key, ` + wasInserted + `, coalesce((array_agg(t.op ORDER BY t.id DESC)
			FILTER (WHERE t.op <> 't'))[1] = 'd', false),
		bool_and(t.op = 't'), (array_agg(t.old ORDER BY t.id) FILTER (WHERE t.old IS NOT NULL))[1]
	FROM taken AS t WHERE t.op <> 'g' GROUP BY t.model, t.key;
	UPDATE ` + marks + ` SET first = true WHERE xid = txid_current() AND id = (
		SELECT min(id) FROM ` + marks + ` WHERE xid = txid_current());
END
$cqrsync$`
}

// wasInserted is a condition on the marks of a key: the transaction made it.
const wasInserted = `coalesce(min(id) FILTER (WHERE op = 'i')
			< coalesce(min(id) FILTER (WHERE op IN ('u', 'd')), 9223372036854775807), false)`

// settings reads what a transaction says about itself, in any language: SET LOCAL
// cqrsync.correlation_id = '…', cqrsync.meta = '{…}', cqrsync.traceparent = '…'.
func (p place) settings() string {
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_settings") + `(OUT meta json, OUT headers json, OUT correlation text)
LANGUAGE plpgsql SET ` + path + ` AS $cqrsync$
DECLARE
	_trace text := nullif(current_setting('cqrsync.traceparent', true), '');
	_state text := nullif(current_setting('cqrsync.tracestate', true), '');
	_text text := nullif(current_setting('cqrsync.meta', true), '');
BEGIN
	correlation := nullif(current_setting('cqrsync.correlation_id', true), '');
	IF octet_length(correlation) > 255 THEN
		RAISE EXCEPTION 'cqrsync.correlation_id has % bytes, want up to 255', octet_length(correlation);
	END IF;
	IF concat(correlation, _trace, _state) ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'cqrsync.correlation_id, traceparent and tracestate have no control characters';
	END IF;
	IF octet_length(_trace) > 255 OR octet_length(_state) > 1024 THEN
		RAISE EXCEPTION 'cqrsync.traceparent has up to 255 bytes, cqrsync.tracestate up to 1024';
	END IF;
	IF _text IS NOT NULL THEN
		BEGIN
			meta := _text::json;
		EXCEPTION WHEN others THEN
			meta := NULL;
		END;
		IF meta IS NULL OR json_typeof(meta) <> 'object' THEN
			RAISE EXCEPTION 'cqrsync.meta is no JSON object' USING HINT = 'SET LOCAL cqrsync.meta = ''{"user": 7}''';
		END IF;
	END IF;
	IF _trace IS NOT NULL THEN
		headers := json_strip_nulls(json_build_object('traceparent', _trace, 'tracestate', _state));
	END IF;
END
$cqrsync$`
}

// flush turns the marks of one model into messages. Its two steps are those of every flush: lock
// the keys in the ledger, in their order; then read their rows, in a statement of its own, whose
// snapshot sees what the others committed who had the lock before. The rule of the ledger is that of
// outbox_record in the migrations, the outcomes are those of outbox/flush.go.
//
// The plan of a statement is made once for one row or a hundred thousand, maybe while the tables are
// empty. OFFSET 0 keeps the planner from joining in another way than row by row through the keys'
// indexes, and the ledger's rows, which are locked, are found again by their place.
func (p place) flush(m Model, table string, relations []string) string {
	if m.Swept {
		return p.keep(m)
	}
	marked := `FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current() AND model = ` + literal(m.ID) + ` GROUP BY key`
	revisions := p.name("outbox_revisions")
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush_"+short(m.ID)) + `(
	_first integer, _count integer, _meta json, _headers json, _correlation text
) RETURNS void LANGUAGE plpgsql SET ` + path + ` AS $cqrsync$
DECLARE
	_key text; _what text;
BEGIN
	INSERT INTO ` + revisions + ` AS l (model, key, revision, produced, updated_at)
	SELECT ` + literal(m.ID) + `, k.key, k.was, k.was, clock_timestamp()
	FROM (
		SELECT key, 1 - (` + wasInserted + `)::integer AS was ` + marked + `
	) AS k ORDER BY k.key
	ON CONFLICT (model, key) DO UPDATE SET
		` + ledger.Raise(db.Postgres{}, "l.") + `;
	WITH m AS MATERIALIZED (
		SELECT key, bool_or(op = 'd') AS gone, bool_and(op = 't') AS touched` + m.oldest() + ` ` + marked + `
	), j AS MATERIALIZED (
		SELECT m.*, l.at, l.revision, l.after, l.updated_at, l.deleted, ` + m.present() + ` AS here,
			` + m.kept() + ` AS kept, ` + m.unsendable() + ` AS unsendable,
			` + object("t", m.Fields, relations) + ` AS data` + m.now() + `
		FROM m CROSS JOIN LATERAL (
			SELECT *, ctid AS at FROM ` + revisions + ` AS l WHERE l.model = ` + literal(m.ID) + ` AND l.key = m.key COLLATE "default" OFFSET 0
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
		INSERT INTO ` + p.name("outbox_messages") + ` (lane, model, key, revision, after, signal, pk, data,
			previous, meta, headers, correlation_id, updated_at, keep)
		SELECT _first + ('x' || lpad(left(md5(` + literal(m.ID+":") + ` || key), 8), 16, '0'))::bit(64)::bigint % _count,
			` + literal(m.ID) + `, key, revision, after, outcome, pk::json,
			CASE outcome WHEN 'SAVE' THEN data ELSE '{"id":' || pk || '}' END::json,
			` + m.previous() + `, _meta, _headers, _correlation, updated_at, ` + fmt.Sprint(m.Everything || len(m.Track) > 0) + `
		FROM o WHERE outcome IN ('SAVE', 'DELETE')
	), settled AS (
		UPDATE ` + revisions + ` AS l SET
			deleted  = CASE outcome WHEN 'unchanged' THEN l.deleted ELSE outcome IN ('DELETE', 'hidden') END,
			produced = CASE WHEN outcome IN ('SAVE', 'DELETE') THEN l.produced ELSE l.after END,
			revision = CASE outcome WHEN 'unchanged' THEN l.revision - 1 ELSE l.revision END` + m.remember() + `
		FROM o WHERE l.ctid = o.at
			AND (outcome <> 'SAVE' OR o.deleted` + m.remembers() + `) AND NOT (outcome = 'unchanged' AND o.revision = 0)
	), forgotten AS (
		DELETE FROM ` + revisions + ` AS l USING o
		WHERE l.ctid = o.at AND outcome = 'unchanged' AND o.revision = 0
	)
	SELECT key, unsendable INTO _key, _what FROM o
	WHERE NOT here AND NOT gone AND NOT touched OR outcome = 'SAVE' AND unsendable IS NOT NULL LIMIT 1;
	IF _what IS NOT NULL THEN
		RAISE EXCEPTION 'cqrsync: column % of table % holds what replicas cannot read, in the row %', _what, ` +
		literal(m.Table) + `, _key
			USING HINT = 'Times lie between the years 1 and 9999.';
	ELSIF _key IS NOT NULL THEN
		RAISE EXCEPTION 'cqrsync: row % of table % was written in this transaction and is not found at its end', _key, ` +
		literal(m.Table) + `
			USING HINT = 'Row level security may hide it from the owner of the triggers, or a trigger was disabled meanwhile.';
	END IF;
END
$cqrsync$`
}

// keep is the flush of a model whose messages only Go can write: it keeps the marks for the sweep.
func (p place) keep(m Model) string {
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush_"+short(m.ID)) + `(
	_first integer, _count integer, _meta json, _headers json, _correlation text
) RETURNS void LANGUAGE sql SET ` + path + ` AS $cqrsync$
	INSERT INTO ` + p.name("outbox_dirty") + ` (model, key, op, old)
	SELECT model, key, op, old FROM ` + p.name("outbox_marks") + `
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
	return object(row, fields, nil)
}

func (m Model) now() string {
	if len(m.Track) == 0 {
		return ""
	}
	return ", (" + m.trackedObject("t") + ")::json AS now, CASE WHEN l.deleted THEN NULL ELSE coalesce(m.old, l.tracked) END AS before"
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
	return "CASE outcome WHEN 'SAVE' THEN ('{' || nullif(concat_ws(',', " + strings.Join(parts, ", ") + "), '') || '}')::json END"
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
