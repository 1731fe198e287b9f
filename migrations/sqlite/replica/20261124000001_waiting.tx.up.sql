-- version counts the writes to a ledger row: who read it without a lock sees whether somebody was faster.
-- deleted_at is when this replica wrote the tombstone, by the database's clock: tombstones are collected by it.
ALTER TABLE {{.Table "replica_revisions"}} ADD COLUMN version integer NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE {{.Table "replica_revisions"}} ADD COLUMN deleted_at integer;
--bun:split
UPDATE {{.Table "replica_revisions"}} SET deleted_at = CAST(unixepoch('now', 'subsec') * 1000000 AS integer) WHERE deleted;
--bun:split
CREATE INDEX {{.Table "replica_revisions_deleted_at"}} ON {{.Table "replica_revisions"}} (deleted_at) WHERE deleted_at IS NOT NULL;
--bun:split
-- Messages that could not be applied yet, the newest of each key, with when to try again (P9). The broker has its ack.
-- parent_model and parent_key are what a foreign key points to that is not there yet.
CREATE TABLE {{.Table "replica_waiting"}} (
    model           text    NOT NULL,
    key             text    NOT NULL,
    revision        integer NOT NULL,
    deleted         integer NOT NULL,
    updated_at      integer,
    body            text    NOT NULL,
    metadata        text    NOT NULL,
    attempts        integer NOT NULL,
    next_attempt_at integer NOT NULL,
    since           integer NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS integer)),
    error           text    NOT NULL,
    parent_model    text,
    parent_key      text,
    PRIMARY KEY (model, key)
);
--bun:split
CREATE INDEX {{.Table "replica_waiting_next"}} ON {{.Table "replica_waiting"}} (next_attempt_at);
--bun:split
CREATE INDEX {{.Table "replica_waiting_parent"}} ON {{.Table "replica_waiting"}} (parent_model, parent_key) WHERE parent_key IS NOT NULL;
