-- resent is the revision at which something of the key was sent once more, out of turn: a SYNC or a dead letter. The next
-- message must not be handed to a relay past it.
ALTER TABLE {{.Table "outbox_revisions"}} ADD COLUMN resent bigint;
--bun:split
DROP FUNCTION {{.Table "outbox_record"}}(integer, text, text, boolean, json, json, json, json, text);
--bun:split
-- As before, but it says what it drew. _follows is the condition of internal/store/ledger.go.
CREATE FUNCTION {{.Table "outbox_record"}}(
    _lane integer, _model text, _key text, _existed boolean, _pk json, _data json, _meta json, _headers json, _correlation_id text,
    OUT _id bigint, OUT _revision bigint, OUT _after bigint, OUT _updated timestamptz, OUT _follows boolean
) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {{.Table "outbox_revisions"}} AS l (model, key, revision, produced, updated_at)
    VALUES (_model, _key, _existed::integer, _existed::integer, clock_timestamp())
    ON CONFLICT (model, key) DO UPDATE SET
        after      = l.produced,
        produced   = l.revision + 1,
        revision   = l.revision + 1,
        updated_at = GREATEST(excluded.updated_at, l.updated_at + interval '1 microsecond'),
        deleted    = false
    RETURNING l.revision, l.after, l.updated_at, (l.revision = 0 OR l.after IS NOT NULL AND coalesce(l.resent, -1) < l.after)
        INTO _revision, _after, _updated, _follows;
    INSERT INTO {{.Table "outbox_messages"}}
        (lane, model, key, revision, after, signal, pk, data, meta, headers, correlation_id, updated_at)
    VALUES (_lane, _model, _key, _revision, _after, 'SAVE', _pk, _data, _meta, _headers, _correlation_id, _updated)
    RETURNING id INTO _id;
END
$$;
