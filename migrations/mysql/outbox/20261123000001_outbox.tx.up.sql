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
--   resent    the revision at which something of the key was sent once more, out of turn: a SYNC or a dead letter.
--             The next message must not be handed to a relay past it
CREATE TABLE IF NOT EXISTS {{.Table "outbox_revisions"}} (
    model      varchar(200) NOT NULL,
    `key`      varchar(512) NOT NULL,
    revision   bigint       NOT NULL,
    produced   bigint,
    after      bigint,
    deleted    boolean      NOT NULL DEFAULT FALSE,
    tracked    longtext,
    updated_at bigint       NOT NULL,
    resent     bigint,
    PRIMARY KEY (model, `key`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- JSON is text here: MySQL's own type would put the members in another order.
-- keep says that no newer message of the key replaces this one: its model tracks previous values, or asked for every
-- revision. What has it not, the relay drops when the key has a newer message (compaction).
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
    keep           boolean NOT NULL DEFAULT FALSE,
    PRIMARY KEY (lane, id),
    KEY (id) -- AUTO_INCREMENT wants an index that begins with it
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows. An owner is
-- named beyond doubt, because owners and epochs come back with their values when a database goes back to an earlier state.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
CREATE TABLE IF NOT EXISTS {{.Table "outbox_lanes"}} (
    lane       smallint     NOT NULL PRIMARY KEY,
    owner      varchar(512),
    epoch      bigint       NOT NULL DEFAULT 0,
    expires_at bigint,
    nonce      bigint NOT NULL DEFAULT 0,
    beat       bigint NOT NULL DEFAULT 0,
    ttl        bigint NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The update names the table and changes nothing: it is there for the second run, and to stop at a table that is not ours.
INSERT INTO {{.Table "outbox_lanes"}} (lane)
WITH RECURSIVE n (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM n WHERE lane < 63) SELECT lane FROM n
ON DUPLICATE KEY UPDATE {{.Table "outbox_lanes"}}.epoch = {{.Table "outbox_lanes"}}.epoch;
--bun:split
-- Live relays, so that each knows its fair share of the lanes. protocol is how a relay, and those who write beside it, use the
-- lanes: see internal/queue/protocol.go.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_relays"}} (
    id         varchar(512) NOT NULL PRIMARY KEY,
    expires_at bigint       NOT NULL,
    ttl        bigint NOT NULL DEFAULT 0,
    protocol   integer NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
-- message_id is the message for which the key waits: a newer one that replaces it ends the wait (P9).
-- since is when the key began to wait.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_retries"}} (
    model           varchar(200) NOT NULL,
    `key`           varchar(512) NOT NULL,
    attempts        integer      NOT NULL,
    next_attempt_at bigint       NOT NULL,
    last_error      text         NOT NULL,
    message_id      bigint NOT NULL DEFAULT 0,
    since           bigint NOT NULL DEFAULT 0,
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
    dead_at        bigint       NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))),
    keep           boolean NOT NULL DEFAULT FALSE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The lanes there are, once more: writers hold their lane's row until they commit, which they could not do with those of
-- outbox_lanes, because relays write them all the time. "relay lanes set" changes both.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_lane_numbers"}} (
    lane smallint NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "outbox_lane_numbers"}} (lane) SELECT lane FROM {{.Table "outbox_lanes"}};
--bun:split
-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE IF NOT EXISTS {{.Table "outbox_incarnation"}} (
    single   smallint     NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       varchar(64)  NOT NULL,
    drawn_at bigint       NOT NULL,
    reason   varchar(500) NOT NULL,
    place    varchar(500) NOT NULL DEFAULT ''
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, CONCAT(LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 16)), '-', LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 8))), TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), 'the tables were made');
--bun:split
-- The replicas that have reported, by the names of their queues, and what is known of each.
--   models      a JSON list: what the queue is bound to
--   reported_at when the last report came
--   beat_at     when the last heartbeat went to the queue
--   echoed_at   when the newest heartbeat went out that the replica has worked off, with all before it
--   through_at  all that was committed before then, the replica has worked off
--   lag         how late that was, in microseconds: from the commit to the replica
--   vanished_at when the broker was found without the queue last, and with all that was in it
CREATE TABLE IF NOT EXISTS {{.Table "outbox_replicas"}} (
    queue       varchar(200) NOT NULL PRIMARY KEY,
    models      longtext NOT NULL,
    first_at    bigint NOT NULL,
    reported_at bigint NOT NULL,
    beat_at     bigint,
    echoed_at   bigint,
    through_at  bigint,
    lag         bigint,
    vanished_at bigint
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The processes of each replica, with the last report of each.
--   pace    how often it reports, in microseconds
CREATE TABLE IF NOT EXISTS {{.Table "outbox_replica_instances"}} (
    queue       varchar(200) NOT NULL,
    instance    varchar(200) NOT NULL,
    pace        bigint NOT NULL,
    reported_at bigint NOT NULL,
    report      longtext NOT NULL,
    PRIMARY KEY (queue, instance)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- What is sent to the queue of one replica alone, so that it has all of a model: who does it, and how far it is.
--   id         which backfill of the model it is; a replica that asks again means the same one
--   filter     which rows, as JSON; {} is all of them
--   rate       rows a second at most, 0 for as many as the replica takes without delaying what changes
--   after_pk   the last primary key that was sent, as JSON, and that the broker has; null at the beginning
--   total      how many rows there are about; null where nobody has counted them
--   bad        rows that cannot be sent, error says why of the last; else why it does not go on
--   owner      who does it until expires_at, when another may
CREATE TABLE IF NOT EXISTS {{.Table "outbox_backfills"}} (
    queue       varchar(200) NOT NULL,
    model       varchar(200) NOT NULL,
    id          varchar(64) NOT NULL,
    filter      longtext NOT NULL,
    rate        bigint NOT NULL,
    after_pk    longtext,
    sent        bigint NOT NULL,
    bad         bigint NOT NULL,
    total       bigint,
    error       longtext NOT NULL,
    asked_at    bigint NOT NULL,
    started_at  bigint,
    updated_at  bigint NOT NULL,
    finished_at bigint,
    owner       varchar(200),
    expires_at  bigint,
    PRIMARY KEY (queue, model)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- How far the comparison of each replica's models with the master's has come.
--   state  JSON: the pass that runs, the last one, when the next is due, and through when all was equal
CREATE TABLE IF NOT EXISTS {{.Table "outbox_verifications"}} (
    queue      varchar(200) NOT NULL,
    model      varchar(200) NOT NULL,
    state      longtext NOT NULL,
    changed_at bigint NOT NULL,
    PRIMARY KEY (queue, model)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- What processes that work on this outbox say is wrong with what they need, a broker say, so that everybody is told why nothing moves.
--   source  who says so, and what it is about; it says so again while it lasts, and what was not said lately is over
CREATE TABLE IF NOT EXISTS {{.Table "outbox_troubles"}} (
    source  varchar(200) NOT NULL,
    what    varchar(200) NOT NULL,
    error   longtext NOT NULL,
    since   bigint NOT NULL,
    said_at bigint NOT NULL,
    PRIMARY KEY (source, what)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- What replicas are asked about single keys, and what they answered, as JSON. It is there for minutes.
--   id       which question to which replica it is: who asks again means another one
--   sent_at  when it went to the replica; null where nobody has sent it yet
CREATE TABLE IF NOT EXISTS {{.Table "outbox_inquiries"}} (
    id          varchar(200) NOT NULL PRIMARY KEY,
    queue       varchar(200) NOT NULL,
    model       varchar(200) NOT NULL,
    `key`       varchar(512) NOT NULL,
    asked_at    bigint NOT NULL,
    sent_at     bigint,
    answered_at bigint,
    answer      longtext
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- What people did by the dashboard: who, when, what, and how it ended. Nothing removes rows from here.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_actions"}} (
    id      bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    done_at bigint NOT NULL,
    who     longtext NOT NULL,
    action  longtext NOT NULL,
    outcome longtext NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
