-- MariaDB commits at every CREATE TABLE, so a migration may stop between any two statements and run again, or twice at
-- once: every statement here does nothing the second time. The mark comes last.
-- Collations are binary and do not pad: keys that differ in case or in trailing spaces are different keys.
-- Times are microseconds since 1970 in UTC, in every MariaDB table of cqrsync.
--
-- The replica's ledger and its tombstones: what every key was last brought to (P6, P7).
--   updated_at  the master's clock (cqrs_updated), and null when the master sent none
--   version     counts the writes: who read the row without a lock sees whether somebody was faster
--   deleted_at  when this replica wrote the tombstone: tombstones are collected by it
--   applied_at  when this replica wrote the row: what changed after a listing is told by it
-- The last two are by this database's clock, and by no clock of somebody else.
CREATE TABLE IF NOT EXISTS {{.Table "replica_revisions"}} (
    model      varchar(200) NOT NULL,
    `key`      varchar(512) NOT NULL,
    revision   bigint       NOT NULL,
    deleted    boolean      NOT NULL DEFAULT FALSE,
    updated_at bigint,
    version    bigint NOT NULL DEFAULT 0,
    deleted_at bigint,
    applied_at bigint,
    PRIMARY KEY (model, `key`),
    INDEX replica_revisions_deleted_at (deleted_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Messages that can never be applied, whole, with the reason. Nothing is dropped (P9).
CREATE TABLE IF NOT EXISTS {{.Table "replica_dead_letters"}} (
    id       bigint   NOT NULL AUTO_INCREMENT PRIMARY KEY,
    queue    text     NOT NULL,
    model    longtext,
    `key`    longtext,
    revision bigint,
    body     longtext NOT NULL,
    metadata longtext NOT NULL CHECK (json_valid(metadata)),
    error    longtext NOT NULL,
    dead_at  bigint   NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))),
    INDEX replica_dead_letters_key (`key`(512))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Messages that could not be applied yet, with when to try again (P9). The broker has its ack.
-- parent_model and parent_key are what a foreign key points to that is not there yet.
-- Handlers see every revision of a key, so several of one key may wait at a time. awaits is the revision of the key that a
-- message waits for, and gap_at when it does so no longer.
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
    awaits          bigint,
    gap_at          bigint,
    PRIMARY KEY (model, `key`, revision),
    INDEX replica_waiting_next (next_attempt_at),
    INDEX replica_waiting_parent (parent_model, parent_key)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Revisions that were passed over, until they are known to be missing: another process of the queue may have them.
-- late is what came after all, as a JSON object: revision to the one before it.
CREATE TABLE IF NOT EXISTS {{.Table "replica_gaps"}} (
    model   varchar(200) NOT NULL,
    `key`   varchar(512) NOT NULL,
    applied bigint       NOT NULL,
    had     bigint       NOT NULL,
    missing bigint       NOT NULL,
    late    longtext     NOT NULL,
    due_at  bigint       NOT NULL,
    PRIMARY KEY (model, `key`, applied),
    INDEX replica_gaps_due (due_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Which database this is. It is noted with the queue, so that two databases behind one queue notice each other.
CREATE TABLE IF NOT EXISTS {{.Table "replica_identity"}} (
    single smallint    NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id     varchar(64) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "replica_identity"}} (single, id) VALUES (1, LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 16)));
--bun:split
-- The other databases that were found behind a queue of this one.
CREATE TABLE IF NOT EXISTS {{.Table "replica_databases"}} (
    queue    varchar(255) NOT NULL,
    id       varchar(64)  NOT NULL,
    first_at bigint       NOT NULL,
    last_at  bigint       NOT NULL,
    times    bigint       NOT NULL,
    PRIMARY KEY (queue, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The incarnations of masters that messages came from, per model; '' is that of masters that do not say.
--   first_at, last_at  by this database's clock
--   newest_at          the newest time of the master's clock among its messages
--   returns            how often it came back, with news, after a later one had come: two masters write the model
--   overtaken          messages that were refused as stale though they are later: the master went back
CREATE TABLE IF NOT EXISTS {{.Table "replica_masters"}} (
    model       varchar(200) NOT NULL,
    incarnation varchar(64)  NOT NULL,
    first_at    bigint       NOT NULL,
    last_at     bigint       NOT NULL,
    newest_at   bigint,
    returns     bigint       NOT NULL DEFAULT 0,
    overtaken   bigint       NOT NULL DEFAULT 0,
    PRIMARY KEY (model, incarnation)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The models that the replica asks its master to send it whole, because it had none of them at its first start.
--   id      the same in all processes and at each time it is asked, so that the master sends it once
--   done_at when all of it had come; null before that
CREATE TABLE IF NOT EXISTS {{.Table "replica_backfills"}} (
    queue    varchar(255) NOT NULL,
    model    varchar(200) NOT NULL,
    id       varchar(64) NOT NULL,
    asked_at bigint NOT NULL,
    done_at  bigint,
    PRIMARY KEY (queue, model)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- How the last comparison of all keys of a model with the master ended, as the master said.
--   through_at what was committed before then, by the master's clock, was proven to be here; null for never
--   ended_at   when the last comparison ended, by the master's clock, with this outcome
--   found      what differed in it, as a JSON object: how to the number of keys
CREATE TABLE IF NOT EXISTS {{.Table "replica_verifications"}} (
    queue      varchar(255) NOT NULL,
    model      varchar(200) NOT NULL,
    outcome    varchar(20) NOT NULL,
    through_at bigint,
    ended_at   bigint NOT NULL,
    found      text NOT NULL,
    PRIMARY KEY (queue, model)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
