-- Handlers see every revision of a key, so several of one key may wait at a time.
-- awaits is the revision of the key that a message waits for, and gap_at when it does so no longer.
-- The primary key goes with its column: its name depends on how long the table's is, and a DO block,
-- which could ask for it, is refused by a Box on the same bun.DB.
ALTER TABLE {{.Table "replica_waiting"}} ADD COLUMN same_key text;
--bun:split
UPDATE {{.Table "replica_waiting"}} SET same_key = key;
--bun:split
ALTER TABLE {{.Table "replica_waiting"}} DROP COLUMN key;
--bun:split
ALTER TABLE {{.Table "replica_waiting"}} RENAME COLUMN same_key TO key;
--bun:split
ALTER TABLE {{.Table "replica_waiting"}}
    ALTER COLUMN key SET NOT NULL,
    ADD PRIMARY KEY (model, key, revision),
    ADD COLUMN awaits bigint,
    ADD COLUMN gap_at timestamptz;
--bun:split
-- Revisions that were passed over, until they are known to be missing: another process of the queue may have them.
-- late is what came after all, as a JSON object: revision to the one before it.
CREATE TABLE {{.Table "replica_gaps"}} (
    model   text        NOT NULL,
    key     text        NOT NULL,
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
-- By hash, because the key of a dead letter may be of any length.
CREATE INDEX ON {{.Table "replica_dead_letters"}} USING hash (key);
