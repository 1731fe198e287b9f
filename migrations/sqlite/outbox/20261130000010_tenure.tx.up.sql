-- Who owns a lane is named beyond doubt, because owners and epochs come back with their values when a database goes back to a
-- backup.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
ALTER TABLE {{.Table "outbox_lanes"}} ADD COLUMN nonce integer NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE {{.Table "outbox_lanes"}} ADD COLUMN beat integer NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE {{.Table "outbox_lanes"}} ADD COLUMN ttl integer NOT NULL DEFAULT 0;
--bun:split
-- protocol is how the relay and those who write beside it use the lanes: see internal/store/protocol.go.
ALTER TABLE {{.Table "outbox_relays"}} ADD COLUMN ttl integer NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE {{.Table "outbox_relays"}} ADD COLUMN protocol integer NOT NULL DEFAULT 0;
