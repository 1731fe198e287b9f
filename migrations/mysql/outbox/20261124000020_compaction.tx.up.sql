-- keep says that no newer message of the key replaces this one: its model tracks previous values, or asked for every
-- revision. What has it not, the relay drops when the key has a newer message (compaction).
ALTER TABLE {{.Table "outbox_messages"}} ADD COLUMN IF NOT EXISTS keep boolean NOT NULL DEFAULT FALSE;
--bun:split
ALTER TABLE {{.Table "outbox_dead_letters"}} ADD COLUMN IF NOT EXISTS keep boolean NOT NULL DEFAULT FALSE;
--bun:split
-- The message for which the key waits: a newer one that replaces it ends the wait (P9).
ALTER TABLE {{.Table "outbox_retries"}} ADD COLUMN IF NOT EXISTS message_id bigint NOT NULL DEFAULT 0;
