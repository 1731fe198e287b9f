-- The replica's ledger and its tombstones: what every key was last brought to (P6, P7).
--   updated_at  the master's clock (cqrs_updated), and null when the master sent none
--   version     counts the writes: who read the row without a lock sees whether somebody was faster
--   deleted_at  when this replica wrote the tombstone: tombstones are collected by it
--   applied_at  when this replica wrote the row: what changed after a listing is told by it
-- The last two are by this database's clock, and by no clock of somebody else.
-- Room in each page (fillfactor) takes the next version of a row, which then needs no new entries in the indexes (HOT).
CREATE TABLE {{.Table "replica_revisions"}} (
    model      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    revision   bigint  NOT NULL,
    deleted    boolean NOT NULL DEFAULT false,
    updated_at timestamptz,
    version    bigint NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    applied_at timestamptz,
    PRIMARY KEY (model, key)
) WITH (fillfactor = 80);
--bun:split
CREATE INDEX ON {{.Table "replica_revisions"}} (deleted_at) WHERE deleted_at IS NOT NULL;
--bun:split
-- Messages that can never be applied, whole, with the reason. Nothing is dropped (P9).
CREATE TABLE {{.Table "replica_dead_letters"}} (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue    text        NOT NULL,
    model    text COLLATE "C",
    key      text COLLATE "C",
    revision bigint,
    body     text        NOT NULL,
    metadata json        NOT NULL,
    error    text        NOT NULL,
    dead_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
--bun:split
-- By hash, because the key of a dead letter may be of any length.
CREATE INDEX ON {{.Table "replica_dead_letters"}} USING hash (key);
--bun:split
-- Messages that could not be applied yet, with when to try again (P9). The broker has its ack.
-- parent_model and parent_key are what a foreign key points to that is not there yet.
-- Handlers see every revision of a key, so several of one key may wait at a time. awaits is the revision of the key that a
-- message waits for, and gap_at when it does so no longer.
CREATE TABLE {{.Table "replica_waiting"}} (
    model           text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    revision        bigint      NOT NULL,
    deleted         boolean     NOT NULL,
    updated_at      timestamptz,
    body            text        NOT NULL,
    metadata        json        NOT NULL,
    attempts        integer     NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    error           text        NOT NULL,
    parent_model    text COLLATE "C",
    parent_key      text COLLATE "C",
    awaits          bigint,
    gap_at          timestamptz,
    PRIMARY KEY (model, key, revision)
);
--bun:split
CREATE INDEX ON {{.Table "replica_waiting"}} (next_attempt_at);
--bun:split
CREATE INDEX ON {{.Table "replica_waiting"}} (parent_model, parent_key) WHERE parent_key IS NOT NULL;
--bun:split
-- Revisions that were passed over, until they are known to be missing: another process of the queue may have them.
-- late is what came after all, as a JSON object: revision to the one before it.
CREATE TABLE {{.Table "replica_gaps"}} (
    model   text COLLATE "C" NOT NULL,
    key     text COLLATE "C" NOT NULL,
    applied bigint      NOT NULL,
    had     bigint      NOT NULL,
    missing bigint      NOT NULL,
    late    text        NOT NULL,
    due_at  timestamptz NOT NULL,
    PRIMARY KEY (model, key, applied)
);
--bun:split
CREATE INDEX ON {{.Table "replica_gaps"}} (due_at);
--bun:split
-- Which database this is. It is noted with the queue, so that two databases behind one queue notice each other.
CREATE TABLE {{.Table "replica_identity"}} (
    single smallint NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id     text     NOT NULL
);
--bun:split
INSERT INTO {{.Table "replica_identity"}} (single, id) VALUES (1, substr(md5(random()::text || clock_timestamp()::text || random()::text), 1, 16));
--bun:split
-- The other databases that were found behind a queue of this one.
CREATE TABLE {{.Table "replica_databases"}} (
    queue    text        NOT NULL,
    id       text        NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    times    bigint      NOT NULL,
    PRIMARY KEY (queue, id)
);
--bun:split
-- The incarnations of masters that messages came from, per model; '' is that of masters that do not say.
--   first_at, last_at  by this database's clock
--   newest_at          the newest time of the master's clock among its messages
--   returns            how often it came back, with news, after a later one had come: two masters write the model
--   overtaken          messages that were refused as stale though they are later: the master went back
CREATE TABLE {{.Table "replica_masters"}} (
    model       text COLLATE "C" NOT NULL,
    incarnation text        NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    newest_at   timestamptz,
    returns     bigint      NOT NULL DEFAULT 0,
    overtaken   bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (model, incarnation)
);
--bun:split
-- The models that the replica asks its master to send it whole, because it had none of them at its first start.
--   id      the same in all processes and at each time it is asked, so that the master sends it once
--   done_at when all of it had come; null before that
CREATE TABLE {{.Table "replica_backfills"}} (
    queue    text NOT NULL,
    model    text NOT NULL,
    id       text NOT NULL,
    asked_at timestamptz NOT NULL,
    done_at  timestamptz,
    PRIMARY KEY (queue, model)
);
--bun:split
-- How the last comparison of all keys of a model with the master ended, as the master said.
--   through_at what was committed before then, by the master's clock, was proven to be here; null for never
--   ended_at   when the last comparison ended, by the master's clock, with this outcome
--   found      what differed in it, as a JSON object: how to the number of keys
CREATE TABLE {{.Table "replica_verifications"}} (
    queue      text NOT NULL,
    model      text NOT NULL,
    outcome    text NOT NULL,
    through_at timestamptz,
    ended_at   timestamptz NOT NULL,
    found      text NOT NULL,
    PRIMARY KEY (queue, model)
);
