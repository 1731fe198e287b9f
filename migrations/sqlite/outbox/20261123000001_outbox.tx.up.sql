-- The master's ledger: one row per key that was ever written through the outbox. It outlives the row it counts,
-- which is what keeps the revision going when a key is deleted and created again (P7).
--   produced  the last revision that made a message (a filter may skip some)
--   after     the value of produced before that: what the newest message says was sent before it
--   updated_at never goes back for a key
--   resent    the revision at which something of the key was sent once more, out of turn: a SYNC or a dead letter.
--             The next message must not be handed to a relay past it
CREATE TABLE {{.Table "outbox_revisions"}} (
    model      text    NOT NULL,
    key        text    NOT NULL,
    revision   integer NOT NULL,
    produced   integer,
    after      integer,
    deleted    integer NOT NULL DEFAULT 0,
    tracked    text,
    updated_at integer NOT NULL,
    resent     integer,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that no broker has confirmed yet. A row leaves only by confirmation or into outbox_dead_letters (P5).
-- The identity is drawn while the key's ledger row is locked, so per key it grows with the revision (P4).
-- AUTOINCREMENT, because a plain rowid would hand out the id of a deleted newest row again.
-- Times are microseconds since 1970 in UTC, in every SQLite table of cqrsync.
-- keep says that no newer message of the key replaces this one: its model tracks previous values, or asked for every
-- revision. What has it not, the relay drops when the key has a newer message (compaction).
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
    keep           integer NOT NULL DEFAULT FALSE,
    CHECK (json_valid(data))
);
--bun:split
CREATE INDEX {{.Table "outbox_messages_lane"}} ON {{.Table "outbox_messages"}} (lane, id);
--bun:split
-- Who publishes a lane. epoch grows with every change of owner and fences the statement that removes sent rows. An owner is
-- named beyond doubt, because owners and epochs come back with their values when a database goes back to an earlier state.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
CREATE TABLE {{.Table "outbox_lanes"}} (
    lane       integer PRIMARY KEY,
    owner      text,
    epoch      integer NOT NULL DEFAULT 0,
    expires_at integer,
    nonce      integer NOT NULL DEFAULT 0,
    beat       integer NOT NULL DEFAULT 0,
    ttl        integer NOT NULL DEFAULT 0
);
--bun:split
INSERT INTO {{.Table "outbox_lanes"}} (lane)
WITH RECURSIVE n (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM n WHERE lane < 63) SELECT lane FROM n;
--bun:split
-- Live relays, so that each knows its fair share of the lanes. protocol is how a relay, and those who write beside it, use the
-- lanes: see internal/queue/protocol.go.
CREATE TABLE {{.Table "outbox_relays"}} (
    id         text    PRIMARY KEY,
    expires_at integer NOT NULL,
    ttl        integer NOT NULL DEFAULT 0,
    protocol   integer NOT NULL DEFAULT 0
);
--bun:split
-- Keys whose oldest message could not be published; they wait here so that the hot table is never updated.
-- message_id is the message for which the key waits: a newer one that replaces it ends the wait (P9).
-- since is when the key began to wait.
CREATE TABLE {{.Table "outbox_retries"}} (
    model           text    NOT NULL,
    key             text    NOT NULL,
    attempts        integer NOT NULL,
    next_attempt_at integer NOT NULL,
    last_error      text    NOT NULL,
    message_id      integer NOT NULL DEFAULT 0,
    since           integer NOT NULL DEFAULT 0,
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
    dead_at        integer NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS integer)),
    keep           integer NOT NULL DEFAULT FALSE
);
--bun:split
-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE {{.Table "outbox_incarnation"}} (
    single   integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       text    NOT NULL,
    drawn_at integer NOT NULL,
    reason   text    NOT NULL,
    place    text    NOT NULL DEFAULT ''
);
--bun:split
INSERT INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, lower(hex(randomblob(8))) || '-' || lower(hex(randomblob(4))), CAST(unixepoch('now', 'subsec') * 1000000 AS integer), 'the tables were made');
--bun:split
-- The replicas that have reported, by the names of their queues, and what is known of each.
--   models      a JSON list: what the queue is bound to
--   reported_at when the last report came
--   beat_at     when the last heartbeat went to the queue
--   echoed_at   when the newest heartbeat went out that the replica has worked off, with all before it
--   through_at  all that was committed before then, the replica has worked off
--   lag         how late that was, in microseconds: from the commit to the replica
--   vanished_at when the broker was found without the queue last, and with all that was in it
CREATE TABLE {{.Table "outbox_replicas"}} (
    queue       text NOT NULL PRIMARY KEY,
    models      text NOT NULL,
    first_at    integer NOT NULL,
    reported_at integer NOT NULL,
    beat_at     integer,
    echoed_at   integer,
    through_at  integer,
    lag         integer,
    vanished_at integer
);
--bun:split
-- The processes of each replica, with the last report of each.
--   pace    how often it reports, in microseconds
CREATE TABLE {{.Table "outbox_replica_instances"}} (
    queue       text NOT NULL,
    instance    text NOT NULL,
    pace        integer NOT NULL,
    reported_at integer NOT NULL,
    report      text NOT NULL,
    PRIMARY KEY (queue, instance)
);
--bun:split
-- What is sent to the queue of one replica alone, so that it has all of a model: who does it, and how far it is.
--   id         which backfill of the model it is; a replica that asks again means the same one
--   filter     which rows, as JSON; {} is all of them
--   rate       rows a second at most, 0 for as many as the replica takes without delaying what changes
--   after_pk   the last primary key that was sent, as JSON, and that the broker has; null at the beginning
--   total      how many rows there are about; null where nobody has counted them
--   bad        rows that cannot be sent, error says why of the last; else why it does not go on
--   owner      who does it until expires_at, when another may
CREATE TABLE {{.Table "outbox_backfills"}} (
    queue       text NOT NULL,
    model       text NOT NULL,
    id          text NOT NULL,
    filter      text NOT NULL,
    rate        integer NOT NULL,
    after_pk    text,
    sent        integer NOT NULL,
    bad         integer NOT NULL,
    total       integer,
    error       text NOT NULL,
    asked_at    integer NOT NULL,
    started_at  integer,
    updated_at  integer NOT NULL,
    finished_at integer,
    owner       text,
    expires_at  integer,
    PRIMARY KEY (queue, model)
);
--bun:split
-- How far the comparison of each replica's models with the master's has come.
--   state  JSON: the pass that runs, the last one, when the next is due, and through when all was equal
CREATE TABLE {{.Table "outbox_verifications"}} (
    queue      text NOT NULL,
    model      text NOT NULL,
    state      text NOT NULL,
    changed_at integer NOT NULL,
    PRIMARY KEY (queue, model)
);
--bun:split
-- What processes that work on this outbox say is wrong with what they need, a broker say, so that everybody is told why nothing moves.
--   source  who says so, and what it is about; it says so again while it lasts, and what was not said lately is over
CREATE TABLE {{.Table "outbox_troubles"}} (
    source  text NOT NULL,
    what    text NOT NULL,
    error   text NOT NULL,
    since   integer NOT NULL,
    said_at integer NOT NULL,
    PRIMARY KEY (source, what)
);
--bun:split
-- What replicas are asked about single keys, and what they answered, as JSON. It is there for minutes.
--   id       which question to which replica it is: who asks again means another one
--   sent_at  when it went to the replica; null where nobody has sent it yet
CREATE TABLE {{.Table "outbox_inquiries"}} (
    id          text NOT NULL PRIMARY KEY,
    queue       text NOT NULL,
    model       text NOT NULL,
    key         text NOT NULL,
    asked_at    integer NOT NULL,
    sent_at     integer,
    answered_at integer,
    answer      text
);
--bun:split
-- What people did by the dashboard: who, when, what, and how it ended. Nothing removes rows from here.
CREATE TABLE {{.Table "outbox_actions"}} (
    id      integer PRIMARY KEY AUTOINCREMENT,
    done_at integer NOT NULL,
    who     text NOT NULL,
    action  text NOT NULL,
    outcome text NOT NULL
);
