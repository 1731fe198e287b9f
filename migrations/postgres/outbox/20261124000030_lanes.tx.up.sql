-- The lanes there are. "relay lanes set" changes the condition together with outbox_lanes, so that a writer who still
-- counts with the old number is refused, and tries again, instead of putting a key's messages into two lanes.
ALTER TABLE {{.Table "outbox_messages"}} ADD CONSTRAINT outbox_messages_lanes CHECK (lane BETWEEN 0 AND 63);
