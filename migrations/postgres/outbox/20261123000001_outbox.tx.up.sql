-- The master's ledger: one row per key that was ever written through the outbox. It outlives the row it counts,
-- which is what keeps the revision going when a key is deleted and created again (P7).
--   produced  the last revision that made a message (a filter may skip some)
--   after     the value of produced before that: what the newest message says was sent before it
--   updated_at never goes back for a key
CREATE TABLE {{.Table "outbox_revisions"}} (
    model      text        NOT NULL,
    key        text        NOT NULL,
    revision   bigint      NOT NULL,
    produced   bigint,
    after      bigint,
    deleted    boolean     NOT NULL DEFAULT false,
    tracked    json,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- The table is small and hot: vacuum by count, not by share, and no index beyond the claim's.
CREATE TABLE {{.Table "outbox_messages"}} (
    id             bigint GENERATED ALWAYS AS IDENTITY,
    lane           smallint    NOT NULL,
    model          text        NOT NULL,
    key            text        NOT NULL,
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
    PRIMARY KEY (lane, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows.
CREATE TABLE {{.Table "outbox_lanes"}} (
    lane       smallint PRIMARY KEY,
    owner      text,
    epoch      bigint NOT NULL DEFAULT 0,
    expires_at timestamptz
);
--bun:split
INSERT INTO {{.Table "outbox_lanes"}} (lane) SELECT generate_series(0, 63);
--bun:split
-- Live relays, so that each knows its fair share of the lanes.
CREATE TABLE {{.Table "outbox_relays"}} (
    id         text PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
CREATE TABLE {{.Table "outbox_retries"}} (
    model           text        NOT NULL,
    key             text        NOT NULL,
    attempts        integer     NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    last_error      text        NOT NULL,
    PRIMARY KEY (model, key)
);
--bun:split
CREATE TABLE {{.Table "outbox_dead_letters"}} (
    id             bigint      PRIMARY KEY,
    lane           smallint    NOT NULL,
    model          text        NOT NULL,
    key            text        NOT NULL,
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
    dead_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
