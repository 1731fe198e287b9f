-- Handlers see every revision of a key, so several of one key may wait at a time.
-- awaits is the revision of the key that a message waits for, and gap_at when it does so no longer.
CREATE TABLE {{.Table "replica_waiting_ordered"}} (
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
    awaits          integer,
    gap_at          integer,
    PRIMARY KEY (model, key, revision)
);
--bun:split
INSERT INTO {{.Table "replica_waiting_ordered"}} SELECT *, NULL, NULL FROM {{.Table "replica_waiting"}};
--bun:split
DROP TABLE {{.Table "replica_waiting"}};
--bun:split
ALTER TABLE {{.Table "replica_waiting_ordered"}} RENAME TO {{.Table "replica_waiting"}};
--bun:split
CREATE INDEX {{.Table "replica_waiting_next"}} ON {{.Table "replica_waiting"}} (next_attempt_at);
--bun:split
CREATE INDEX {{.Table "replica_waiting_parent"}} ON {{.Table "replica_waiting"}} (parent_model, parent_key) WHERE parent_key IS NOT NULL;
--bun:split
-- Revisions that were passed over, until they are known to be missing: another process of the queue may have them.
-- late is what came after all, as a JSON object: revision to the one before it.
CREATE TABLE {{.Table "replica_gaps"}} (
    model   text    NOT NULL,
    key     text    NOT NULL,
    applied integer NOT NULL,
    had     integer NOT NULL,
    missing integer NOT NULL,
    late    text    NOT NULL,
    due_at  integer NOT NULL,
    PRIMARY KEY (model, key, applied)
);
--bun:split
CREATE INDEX {{.Table "replica_gaps_due"}} ON {{.Table "replica_gaps"}} (due_at);
--bun:split
CREATE INDEX {{.Table "replica_dead_letters_key"}} ON {{.Table "replica_dead_letters"}} (key);
