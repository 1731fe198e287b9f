-- MariaDB commits at every CREATE TABLE, so a migration may stop between any two statements and run again, or twice at
-- once: every statement here does nothing the second time. The mark comes last.
-- Collations are binary and do not pad: keys that differ in case or in trailing spaces are different keys.
-- Times are microseconds since 1970 in UTC, in every MariaDB table of cqrsync.
--
-- The replica's ledger and its tombstones: what every key was last brought to (P6, P7).
-- updated_at is the master's clock (cqrs_updated), and null when the master sent none.
CREATE TABLE IF NOT EXISTS {{.Table "replica_revisions"}} (
    model      varchar(200) NOT NULL,
    `key`      varchar(512) NOT NULL,
    revision   bigint       NOT NULL,
    deleted    boolean      NOT NULL DEFAULT FALSE,
    updated_at bigint,
    PRIMARY KEY (model, `key`)
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
    dead_at  bigint   NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
