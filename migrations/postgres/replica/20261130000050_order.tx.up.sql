-- Handlers see every revision of a key, so several of one key may wait at a time.
-- awaits is the revision of the key that a message waits for, and gap_at when it does so no longer.
DO $$
DECLARE
    key_of_waiting name;
BEGIN
    SELECT conname INTO key_of_waiting FROM pg_constraint
    WHERE conrelid = '{{.Table "replica_waiting"}}'::regclass AND contype = 'p';
    EXECUTE format('ALTER TABLE {{.Table "replica_waiting"}} DROP CONSTRAINT %I', key_of_waiting);
END
$$;
--bun:split
ALTER TABLE {{.Table "replica_waiting"}}
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
