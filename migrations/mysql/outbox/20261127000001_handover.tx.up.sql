-- resent is the revision at which something of the key was sent once more, out of turn: a SYNC or a dead letter. The next
-- message must not be handed to a relay past it.
ALTER TABLE {{.Table "outbox_revisions"}} ADD COLUMN IF NOT EXISTS resent bigint;
