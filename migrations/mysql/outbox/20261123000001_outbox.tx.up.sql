-- MariaDB commits at every CREATE TABLE, so a migration may stop between any two statements and run again, or twice at
-- once: every statement here does nothing the second time. The mark comes last.
-- Collations are binary and do not pad: keys that differ in case or in trailing spaces are different keys.
-- Times are microseconds since 1970 in UTC, in every MariaDB table of cqrsync.
--
-- The master's ledger: one row per key that was ever written through the outbox. It outlives the row it counts,
-- which is what keeps the revision going when a key is deleted and created again (P7).
--   produced  the last revision that made a message (a filter may skip some)
--   after     the value of produced before that: what the newest message says was sent before it
--   updated_at never goes back for a key
CREATE TABLE IF NOT EXISTS {{.Table "outbox_revisions"}} (
    model      varchar(200) NOT NULL,
    `key`      varchar(512) NOT NULL,
    revision   bigint       NOT NULL,
    produced   bigint,
    after      bigint,
    deleted    boolean      NOT NULL DEFAULT FALSE,
    tracked    longtext,
    updated_at bigint       NOT NULL,
    PRIMARY KEY (model, `key`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- JSON is text here: MySQL's own type would put the members in another order.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_messages"}} (
    id             bigint       NOT NULL AUTO_INCREMENT,
    lane           smallint     NOT NULL,
    model          varchar(200) NOT NULL,
    `key`          varchar(512) NOT NULL,
    revision       bigint       NOT NULL,
    after          bigint,
    `signal`       varchar(20)  NOT NULL,
    queue          text,
    pk             longtext     NOT NULL CHECK (json_valid(pk)),
    data           longtext     NOT NULL CHECK (json_valid(data)),
    previous       longtext,
    meta           longtext,
    headers        longtext,
    correlation_id text,
    updated_at     bigint       NOT NULL,
    created_at     bigint       NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))),
    expires_at     bigint,
    PRIMARY KEY (lane, id),
    KEY (id) -- AUTO_INCREMENT wants an index that begins with it
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_lanes"}} (
    lane       smallint     NOT NULL PRIMARY KEY,
    owner      varchar(512),
    epoch      bigint       NOT NULL DEFAULT 0,
    expires_at bigint
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The update names the table and changes nothing: it is there for the second run, and to stop at a table that is not ours.
INSERT INTO {{.Table "outbox_lanes"}} (lane)
WITH RECURSIVE n (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM n WHERE lane < 63) SELECT lane FROM n
ON DUPLICATE KEY UPDATE {{.Table "outbox_lanes"}}.epoch = {{.Table "outbox_lanes"}}.epoch;
--bun:split
-- Live relays, so that each knows its fair share of the lanes.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_relays"}} (
    id         varchar(512) NOT NULL PRIMARY KEY,
    expires_at bigint       NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_retries"}} (
    model           varchar(200) NOT NULL,
    `key`           varchar(512) NOT NULL,
    attempts        integer      NOT NULL,
    next_attempt_at bigint       NOT NULL,
    last_error      text         NOT NULL,
    PRIMARY KEY (model, `key`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
CREATE TABLE IF NOT EXISTS {{.Table "outbox_dead_letters"}} (
    id             bigint       NOT NULL PRIMARY KEY,
    lane           smallint     NOT NULL,
    model          varchar(200) NOT NULL,
    `key`          varchar(512) NOT NULL,
    revision       bigint       NOT NULL,
    after          bigint,
    `signal`       varchar(20)  NOT NULL,
    queue          text,
    pk             longtext     NOT NULL CHECK (json_valid(pk)),
    data           longtext     NOT NULL CHECK (json_valid(data)),
    previous       longtext,
    meta           longtext,
    headers        longtext,
    correlation_id text,
    updated_at     bigint       NOT NULL,
    created_at     bigint       NOT NULL,
    expires_at     bigint,
    attempts       integer      NOT NULL,
    last_error     text         NOT NULL,
    dead_at        bigint       NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
