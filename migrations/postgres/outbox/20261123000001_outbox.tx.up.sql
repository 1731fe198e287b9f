-- The master's ledger: one row per key that was ever written through the outbox. It outlives the row it counts,
-- which is what keeps the revision going when a key is deleted and created again (P7).
--   produced  the last revision that made a message (a filter may skip some)
--   after     the value of produced before that: what the newest message says was sent before it
--   updated_at never goes back for a key
--   resent    the revision at which something of the key was sent once more, out of turn: a SYNC or a dead letter.
--             The next message must not be handed to a relay past it
CREATE TABLE {{.Table "outbox_revisions"}} (
    model      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    revision   bigint      NOT NULL,
    produced   bigint,
    after      bigint,
    deleted    boolean     NOT NULL DEFAULT false,
    tracked    json,
    updated_at timestamptz NOT NULL,
    resent     bigint,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- The table is small and hot: vacuum by count, not by share, and no index beyond the claim's.
-- keep says that no newer message of the key replaces this one: its model tracks previous values, or asked for every
-- revision. What has it not, the relay drops when the key has a newer message (compaction).
-- "relay lanes set" changes outbox_messages_lanes together with outbox_lanes, so that a writer who still counts with the
-- old number of lanes is refused, and tries again, instead of putting a key's messages into two lanes.
CREATE TABLE {{.Table "outbox_messages"}} (
    id             bigint GENERATED ALWAYS AS IDENTITY,
    lane           smallint    NOT NULL,
    model          text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    revision       bigint      NOT NULL,
    after          bigint,
    signal         text        NOT NULL,
    queue          text,
    pk             json        NOT NULL,
    data           json        NOT NULL,
    previous       json,
    meta           json,
    headers        json,
    correlation_id text,
    updated_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz,
    keep           boolean NOT NULL DEFAULT false,
    PRIMARY KEY (lane, id),
    CONSTRAINT outbox_messages_lanes CHECK (lane BETWEEN 0 AND 63)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows. An owner is
-- named beyond doubt, because owners and epochs come back with their values when a database goes back to an earlier state.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
CREATE TABLE {{.Table "outbox_lanes"}} (
    lane       smallint PRIMARY KEY,
    owner      text,
    epoch      bigint NOT NULL DEFAULT 0,
    expires_at timestamptz,
    nonce      bigint NOT NULL DEFAULT 0,
    beat       bigint NOT NULL DEFAULT 0,
    ttl        bigint NOT NULL DEFAULT 0
);
--bun:split
INSERT INTO {{.Table "outbox_lanes"}} (lane) SELECT generate_series(0, 63);
--bun:split
-- Live relays, so that each knows its fair share of the lanes. protocol is how a relay, and those who write beside it, use the
-- lanes: see internal/queue/protocol.go.
CREATE TABLE {{.Table "outbox_relays"}} (
    id         text PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    ttl        bigint NOT NULL DEFAULT 0,
    protocol   integer NOT NULL DEFAULT 0
);
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
-- message_id is the message for which the key waits: a newer one that replaces it ends the wait (P9).
-- since is when the key began to wait.
CREATE TABLE {{.Table "outbox_retries"}} (
    model           text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    attempts        integer     NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    last_error      text        NOT NULL,
    message_id      bigint NOT NULL DEFAULT 0,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, key)
);
--bun:split
CREATE TABLE {{.Table "outbox_dead_letters"}} (
    id             bigint      PRIMARY KEY,
    lane           smallint    NOT NULL,
    model          text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    revision       bigint      NOT NULL,
    after          bigint,
    signal         text        NOT NULL,
    queue          text,
    pk             json        NOT NULL,
    data           json        NOT NULL,
    previous       json,
    meta           json,
    headers        json,
    correlation_id text,
    updated_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz,
    attempts       integer     NOT NULL,
    last_error     text        NOT NULL,
    dead_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    keep           boolean NOT NULL DEFAULT false
);
--bun:split
-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE {{.Table "outbox_incarnation"}} (
    single   smallint    NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       text        NOT NULL,
    drawn_at timestamptz NOT NULL,
    reason   text        NOT NULL,
    place    text        NOT NULL DEFAULT ''
);
--bun:split
INSERT INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, substr(md5(random()::text || clock_timestamp()::text || random()::text), 1, 16) || '-' || substr(md5(random()::text || clock_timestamp()::text || random()::text), 1, 8), clock_timestamp(), 'the tables were made');
--bun:split
-- What the outbox does most often, as functions: raise the ledger row of a saved entity and append its message. The
-- statements are those of internal/master/record.go; in a function their plans are kept by the session, also behind a
-- transaction-pooling proxy, and planning them was most of what they cost.
--
-- It says what it drew: _follows is the condition of internal/ledger/rule.go, and by _created whoever removes the message
-- tells it from one that has its identity after the database went back.
CREATE FUNCTION {{.Table "outbox_record"}}(
    _lane integer, _model text, _key text, _existed boolean, _pk json, _data json, _meta json, _headers json, _correlation_id text,
    OUT _id bigint, OUT _revision bigint, OUT _after bigint, OUT _updated timestamptz, OUT _follows boolean, OUT _created timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {{.Table "outbox_revisions"}} AS l (model, key, revision, produced, updated_at)
    VALUES (_model, _key, _existed::integer, _existed::integer, clock_timestamp())
    ON CONFLICT (model, key) DO UPDATE SET
        {{.Raise "l."}}, deleted = false
    RETURNING l.revision, l.after, l.updated_at, {{.Follows "l."}}
        INTO _revision, _after, _updated, _follows;
    INSERT INTO {{.Table "outbox_messages"}}
        (lane, model, key, revision, after, signal, pk, data, meta, headers, correlation_id, updated_at)
    VALUES (_lane, _model, _key, _revision, _after, 'SAVE', _pk, _data, _meta, _headers, _correlation_id, _updated)
    RETURNING id, created_at INTO _id, _created;
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
            {{.Raise "l."}}, deleted = false
        RETURNING l.key, l.revision, l.after, l.updated_at
    )
    INSERT INTO {{.Table "outbox_messages"}}
        (lane, model, key, revision, after, signal, pk, data, meta, headers, correlation_id, updated_at)
    SELECT v.lane, _model, v.key, r.revision, r.after, 'SAVE', v.pk::json, v.data::json,
        _meta, _headers, _correlation_id, r.updated_at
    FROM v JOIN r USING (key);
END
$$;
--bun:split
-- The replicas that have reported, by the names of their queues, and what is known of each.
--   models      a JSON list: what the queue is bound to
--   reported_at when the last report came
--   beat_at     when the last heartbeat went to the queue
--   echoed_at   when the newest heartbeat went out that the replica has worked off, with all before it
--   through_at  all that was committed before then, the replica has worked off
--   lag         how late that was, in microseconds: from the commit to the replica
--   vanished_at when the broker was found without the queue last, and with all that was in it
CREATE TABLE {{.Table "outbox_replicas"}} (
    queue       text NOT NULL PRIMARY KEY,
    models      text NOT NULL,
    first_at    timestamptz NOT NULL,
    reported_at timestamptz NOT NULL,
    beat_at     timestamptz,
    echoed_at   timestamptz,
    through_at  timestamptz,
    lag         bigint,
    vanished_at timestamptz
);
--bun:split
-- The processes of each replica, with the last report of each.
--   pace    how often it reports, in microseconds
CREATE TABLE {{.Table "outbox_replica_instances"}} (
    queue       text NOT NULL,
    instance    text NOT NULL,
    pace        bigint NOT NULL,
    reported_at timestamptz NOT NULL,
    report      text NOT NULL,
    PRIMARY KEY (queue, instance)
);
--bun:split
-- What is sent to the queue of one replica alone, so that it has all of a model: who does it, and how far it is.
--   id         which backfill of the model it is; a replica that asks again means the same one
--   filter     which rows, as JSON; {} is all of them
--   rate       rows a second at most, 0 for as many as the replica takes without delaying what changes
--   after_pk   the last primary key that was sent, as JSON, and that the broker has; null at the beginning
--   total      how many rows there are about; null where nobody has counted them
--   bad        rows that cannot be sent, error says why of the last; else why it does not go on
--   owner      who does it until expires_at, when another may
CREATE TABLE {{.Table "outbox_backfills"}} (
    queue       text NOT NULL,
    model       text NOT NULL,
    id          text NOT NULL,
    filter      text NOT NULL,
    rate        bigint NOT NULL,
    after_pk    text,
    sent        bigint NOT NULL,
    bad         bigint NOT NULL,
    total       bigint,
    error       text NOT NULL,
    asked_at    timestamptz NOT NULL,
    started_at  timestamptz,
    updated_at  timestamptz NOT NULL,
    finished_at timestamptz,
    owner       text,
    expires_at  timestamptz,
    PRIMARY KEY (queue, model)
);
--bun:split
-- How far the comparison of each replica's models with the master's has come.
--   state  JSON: the pass that runs, the last one, when the next is due, and through when all was equal
CREATE TABLE {{.Table "outbox_verifications"}} (
    queue      text NOT NULL,
    model      text NOT NULL,
    state      text NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (queue, model)
);
--bun:split
-- What processes that work on this outbox say is wrong with what they need, a broker say, so that everybody is told why nothing moves.
--   source  who says so, and what it is about; it says so again while it lasts, and what was not said lately is over
CREATE TABLE {{.Table "outbox_troubles"}} (
    source  text NOT NULL,
    what    text NOT NULL,
    error   text NOT NULL,
    since   timestamptz NOT NULL,
    said_at timestamptz NOT NULL,
    PRIMARY KEY (source, what)
);
--bun:split
-- What replicas are asked about single keys, and what they answered, as JSON. It is there for minutes.
--   id       which question to which replica it is: who asks again means another one
--   sent_at  when it went to the replica; null where nobody has sent it yet
CREATE TABLE {{.Table "outbox_inquiries"}} (
    id          text NOT NULL PRIMARY KEY,
    queue       text NOT NULL,
    model       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    asked_at    timestamptz NOT NULL,
    sent_at     timestamptz,
    answered_at timestamptz,
    answer      text
);
--bun:split
-- What people did by the dashboard: who, when, what, and how it ended. Nothing removes rows from here.
CREATE TABLE {{.Table "outbox_actions"}} (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done_at timestamptz NOT NULL,
    who     text NOT NULL,
    action  text NOT NULL,
    outcome text NOT NULL
);
