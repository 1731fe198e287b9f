-- Handlers see every revision of a key, so several of one key may wait at a time.
-- awaits is the revision of the key that a message waits for, and gap_at when it does so no longer.
ALTER TABLE {{.Table "replica_waiting"}}
    ADD COLUMN IF NOT EXISTS awaits bigint,
    ADD COLUMN IF NOT EXISTS gap_at bigint,
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (model, `key`, revision);
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
ALTER TABLE {{.Table "replica_dead_letters"}} ADD INDEX IF NOT EXISTS replica_dead_letters_key (`key`(512));
