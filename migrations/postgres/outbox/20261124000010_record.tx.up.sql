-- What the outbox does most often, as functions: raise the ledger row of a saved entity and append its message. The
-- statements are those of internal/store/record.go; in a function their plans are kept by the session, also behind a
-- transaction-pooling proxy, and planning them was most of what they cost.
CREATE FUNCTION {{.Table "outbox_record"}}(
    _lane integer, _model text, _key text, _existed boolean, _pk json, _data json, _meta json, _headers json, _correlation_id text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _revision bigint;
    _after    bigint;
    _updated  timestamptz;
BEGIN
    INSERT INTO {{.Table "outbox_revisions"}} AS l (model, key, revision, produced, updated_at)
    VALUES (_model, _key, _existed::integer, _existed::integer, clock_timestamp())
    ON CONFLICT (model, key) DO UPDATE SET
        after      = l.produced,
        produced   = l.revision + 1,
        revision   = l.revision + 1,
        updated_at = GREATEST(excluded.updated_at, l.updated_at + interval '1 microsecond'),
        deleted    = false
    RETURNING l.revision, l.after, l.updated_at INTO _revision, _after, _updated;
    INSERT INTO {{.Table "outbox_messages"}}
        (lane, model, key, revision, after, signal, pk, data, meta, headers, correlation_id, updated_at)
    VALUES (_lane, _model, _key, _revision, _after, 'SAVE', _pk, _data, _meta, _headers, _correlation_id, _updated);
END
$$;
--bun:split
-- The same for many entities of one model, which must come in the order of their keys (the one lock order).
CREATE FUNCTION {{.Table "outbox_record_many"}}(
    _lanes integer[], _model text, _keys text[], _existed boolean[], _pks text[], _data text[],
    _meta json, _headers json, _correlation_id text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH v AS (
        SELECT * FROM unnest(_lanes, _keys, _existed, _pks, _data) AS v (lane, key, existed, pk, data)
    ), r AS (
        INSERT INTO {{.Table "outbox_revisions"}} AS l (model, key, revision, produced, updated_at)
        SELECT _model, v.key, v.existed::integer, v.existed::integer, clock_timestamp() FROM v
        ON CONFLICT (model, key) DO UPDATE SET
            after      = l.produced,
            produced   = l.revision + 1,
            revision   = l.revision + 1,
            updated_at = GREATEST(excluded.updated_at, l.updated_at + interval '1 microsecond'),
            deleted    = false
        RETURNING l.key, l.revision, l.after, l.updated_at
    )
    INSERT INTO {{.Table "outbox_messages"}}
        (lane, model, key, revision, after, signal, pk, data, meta, headers, correlation_id, updated_at)
    SELECT v.lane, _model, v.key, r.revision, r.after, 'SAVE', v.pk::json, v.data::json,
        _meta, _headers, _correlation_id, r.updated_at
    FROM v JOIN r USING (key);
END
$$;
