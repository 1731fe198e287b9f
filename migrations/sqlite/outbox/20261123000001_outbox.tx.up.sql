-- The master's ledger: one row per key that was ever written through the outbox. It outlives the row it counts,
-- which is what keeps the revision going when a key is deleted and created again (P7).
--   produced  the last revision that made a message (a filter may skip some)
--   after     the value of produced before that: what the newest message says was sent before it
--   updated_at never goes back for a key
CREATE TABLE {{.Table "outbox_revisions"}} (
    model      text    NOT NULL,
    key        text    NOT NULL,
    revision   integer NOT NULL,
    produced   integer,
    after      integer,
    deleted    integer NOT NULL DEFAULT 0,
    tracked    text,
    updated_at integer NOT NULL,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- AUTOINCREMENT, because a plain rowid would hand out the id of a deleted newest row again.
-- Times are microseconds since 1970 in UTC, in every SQLite table of cqrsync.
CREATE TABLE {{.Table "outbox_messages"}} (
    id             integer PRIMARY KEY AUTOINCREMENT,
    lane           integer NOT NULL,
    model          text    NOT NULL,
    key            text    NOT NULL,
    revision       integer NOT NULL,
    after          integer,
    signal         text    NOT NULL,
    queue          text,
    pk             text    NOT NULL,
    data           text    NOT NULL,
    previous       text,
    meta           text,
    headers        text,
    correlation_id text,
    updated_at     integer NOT NULL,
    created_at     integer NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS integer)),
    expires_at     integer,
    CHECK (json_valid(data))
);
--bun:split
CREATE INDEX {{.Table "outbox_messages_lane"}} ON {{.Table "outbox_messages"}} (lane, id);
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows.
CREATE TABLE {{.Table "outbox_lanes"}} (
    lane       integer PRIMARY KEY,
    owner      text,
    epoch      integer NOT NULL DEFAULT 0,
    expires_at integer
);
--bun:split
INSERT INTO {{.Table "outbox_lanes"}} (lane)
WITH RECURSIVE n (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM n WHERE lane < 63) SELECT lane FROM n;
--bun:split
-- Live relays, so that each knows its fair share of the lanes.
CREATE TABLE {{.Table "outbox_relays"}} (
    id         text    PRIMARY KEY,
    expires_at integer NOT NULL
);
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
CREATE TABLE {{.Table "outbox_retries"}} (
    model           text    NOT NULL,
    key             text    NOT NULL,
    attempts        integer NOT NULL,
    next_attempt_at integer NOT NULL,
    last_error      text    NOT NULL,
    PRIMARY KEY (model, key)
);
--bun:split
CREATE TABLE {{.Table "outbox_dead_letters"}} (
    id             integer PRIMARY KEY,
    lane           integer NOT NULL,
    model          text    NOT NULL,
    key            text    NOT NULL,
    revision       integer NOT NULL,
    after          integer,
    signal         text    NOT NULL,
    queue          text,
    pk             text    NOT NULL,
    data           text    NOT NULL,
    previous       text,
    meta           text,
    headers        text,
    correlation_id text,
    updated_at     integer NOT NULL,
    created_at     integer NOT NULL,
    expires_at     integer,
    attempts       integer NOT NULL,
    last_error     text    NOT NULL,
    dead_at        integer NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS integer))
);
