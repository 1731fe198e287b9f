-- version counts the writes to a ledger row: who read it without a lock sees whether somebody was faster.
-- deleted_at is when this replica wrote the tombstone, by the database's clock: tombstones are collected by it.
ALTER TABLE {{.Table "replica_revisions"}}
    ADD COLUMN version    bigint NOT NULL DEFAULT 0,
    ADD COLUMN deleted_at timestamptz;
--bun:split
UPDATE {{.Table "replica_revisions"}} SET deleted_at = clock_timestamp() WHERE deleted;
--bun:split
CREATE INDEX ON {{.Table "replica_revisions"}} (deleted_at) WHERE deleted_at IS NOT NULL;
--bun:split
-- Messages that could not be applied yet, the newest of each key, with when to try again (P9). The broker has its ack.
-- parent_model and parent_key are what a foreign key points to that is not there yet.
CREATE TABLE {{.Table "replica_waiting"}} (
    model           text        NOT NULL,
    key             text        NOT NULL,
    revision        bigint      NOT NULL,
    deleted         boolean     NOT NULL,
    updated_at      timestamptz,
    body            text        NOT NULL,
    metadata        json        NOT NULL,
    attempts        integer     NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    error           text        NOT NULL,
    parent_model    text,
    parent_key      text,
    PRIMARY KEY (model, key)
);
--bun:split
CREATE INDEX ON {{.Table "replica_waiting"}} (next_attempt_at);
--bun:split
CREATE INDEX ON {{.Table "replica_waiting"}} (parent_model, parent_key) WHERE parent_key IS NOT NULL;
