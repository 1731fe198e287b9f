package capture

import (
	"fmt"
	"slices"
	"strings"
)

// place is where cqrsync's own tables and functions are. All names in functions are qualified: a
// function with the rights of its owner must not look where its caller says.
type place struct{ schema, prefix string }

func (p place) name(base string) string { return quote(p.schema) + "." + quote(p.prefix+base) }

// path is the search path of a function. The schema of temporary tables comes last, or a caller
// could put a table of his in front.
const path = "search_path = pg_catalog, pg_temp"

// marks makes two tables. outbox_dirty keeps the marks of models that are swept. outbox_marks is
// what the transactions that run have written. Nothing in it outlives its transaction, so it need
// not survive a crash.
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
		`CREATE INDEX IF NOT EXISTS ` + quote(p.prefix+"outbox_marks_xid") +
			` ON ` + p.name("outbox_marks") + ` (xid)`,
		`CREATE TABLE IF NOT EXISTS ` + p.name("outbox_dirty") + ` (
	id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	model text COLLATE "C" NOT NULL,
	key   text COLLATE "C" NOT NULL,
	op    "char" NOT NULL,
	old   json,
	meta  json,
	headers json,
	correlation_id text,
	noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
	}
}

// dispatcher flushes all models that the transaction marked, in the order of their ids: the one
// order in which everybody locks the ledger. It ends with the marks gone, so that it may run again
// where a transaction wants its constraints at once.
func (p place) dispatcher(models []string) string {
	var cases []string
	for _, id := range slices.Sorted(slices.Values(models)) {
		cases = append(cases, fmt.Sprintf("WHEN %s THEN\n"+
			"\t\t\t\tPERFORM %s(_plain, _first, _count, _meta, _headers, _correlation);",
			literal(id), p.name("outbox_flush_"+short(id))))
	}
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_flush") + `() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET ` + path + ` SET row_security = off
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET ` + strings.Join(pinned, " SET ") + ` AS $cqrsync$
DECLARE
	_model text; _plain boolean; _first integer; _count integer;
	_meta json; _headers json; _correlation text;
BEGIN
	IF TG_OP = 'INSERT' THEN -- stand in line once more, behind the deferred triggers of others
		UPDATE ` + p.name("outbox_marks") + ` SET first = true WHERE xid = txid_current() AND id = NEW.id;
		RETURN NULL;
	END IF;
	FOR _model, _plain IN
		SELECT model AS m, bool_and(op IN ('i', 'u')) FROM ` + p.name("outbox_marks") + `
		WHERE xid = txid_current() GROUP BY model ORDER BY model
	LOOP
		IF _model = '' THEN -- the mark of a session of Go, which comes first
			RETURN NULL;
		ELSIF _count IS NULL THEN
			SELECT min(lane), count(*) INTO _first, _count FROM ` + p.name("outbox_lanes") + `;
			SELECT s.meta, s.headers, s.correlation INTO _meta, _headers, _correlation
				FROM ` + p.name("outbox_settings") + `() AS s;
		END IF;
		CASE _model
			` + strings.Join(cases, "\n\t\t\t") + `
			ELSE
				RAISE EXCEPTION 'cqrsync: rows of model % are marked, ` +
		`and nothing makes messages of them', _model
					USING HINT = 'Run relay capture install.';
		END CASE;
	END LOOP;
	DELETE FROM ` + p.name("outbox_marks") + ` WHERE xid = txid_current();
	RETURN NULL;
END
$cqrsync$`
}

// taker hands the marks of some models to a session of Go, which makes their messages, and leaves
// those of others to the flush. Deferred triggers run before, because what they write belongs to
// the state at the commit. It runs with the rights of its caller, and so do they.
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
		DELETE FROM ` + marks + ` WHERE xid = txid_current() AND (model = ANY (_models) OR op = 'g')
		RETURNING *
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
	return `CREATE OR REPLACE FUNCTION ` + p.name("outbox_settings") + `(
	OUT meta json, OUT headers json, OUT correlation text)
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
			RAISE EXCEPTION 'cqrsync.meta is no JSON object'
				USING HINT = 'SET LOCAL cqrsync.meta = ''{"user": 7}''';
		END IF;
	END IF;
	IF _trace IS NOT NULL THEN
		headers := json_strip_nulls(json_build_object('traceparent', _trace, 'tracestate', _state));
	END IF;
END
$cqrsync$`
}
