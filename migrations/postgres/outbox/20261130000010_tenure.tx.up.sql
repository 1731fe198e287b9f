-- Who owns a lane is named beyond doubt, because owners and epochs come back with their values when a database goes back:
-- to a standby that was behind, or to a backup.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
ALTER TABLE {{.Table "outbox_lanes"}}
    ADD COLUMN nonce bigint NOT NULL DEFAULT 0,
    ADD COLUMN beat  bigint NOT NULL DEFAULT 0,
    ADD COLUMN ttl   bigint NOT NULL DEFAULT 0;
--bun:split
-- protocol is how the relay and those who write beside it use the lanes: see internal/store/protocol.go.
ALTER TABLE {{.Table "outbox_relays"}}
    ADD COLUMN ttl      bigint  NOT NULL DEFAULT 0,
    ADD COLUMN protocol integer NOT NULL DEFAULT 0;
--bun:split
DROP FUNCTION {{.Table "outbox_record"}}(integer, text, text, boolean, json, json, json, json, text);
--bun:split
-- As before, but it says when the message was made, too, by which whoever removes it tells it from one that has its identity
-- after the database went back.
CREATE FUNCTION {{.Table "outbox_record"}}(
    _lane integer, _model text, _key text, _existed boolean, _pk json, _data json, _meta json, _headers json, _correlation_id text,
    OUT _id bigint, OUT _revision bigint, OUT _after bigint, OUT _updated timestamptz, OUT _follows boolean, OUT _created timestamptz
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
    RETURNING id, created_at INTO _id, _created;
END
$$;
