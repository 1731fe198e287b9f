-- version counts the writes to a ledger row: who read it without a lock sees whether somebody was faster.
-- deleted_at is when this replica wrote the tombstone, by the database's clock: tombstones are collected by it.
ALTER TABLE {{.Table "replica_revisions"}}
    ADD COLUMN IF NOT EXISTS version    bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS deleted_at bigint,
    ADD INDEX IF NOT EXISTS replica_revisions_deleted_at (deleted_at);
--bun:split
UPDATE {{.Table "replica_revisions"}} SET deleted_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
WHERE deleted AND deleted_at IS NULL;
--bun:split
-- Messages that could not be applied yet, the newest of each key, with when to try again (P9). The broker has its ack.
-- parent_model and parent_key are what a foreign key points to that is not there yet.
CREATE TABLE IF NOT EXISTS {{.Table "replica_waiting"}} (
    model           varchar(200) NOT NULL,
    `key`           varchar(512) NOT NULL,
    revision        bigint       NOT NULL,
    deleted         boolean      NOT NULL,
    updated_at      bigint,
    body            longtext     NOT NULL,
    metadata        longtext     NOT NULL CHECK (json_valid(metadata)),
    attempts        integer      NOT NULL,
    next_attempt_at bigint       NOT NULL,
    since           bigint       NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))),
    error           longtext     NOT NULL,
    parent_model    varchar(200),
    parent_key      varchar(512),
    PRIMARY KEY (model, `key`),
    INDEX replica_waiting_next (next_attempt_at),
    INDEX replica_waiting_parent (parent_model, parent_key)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
