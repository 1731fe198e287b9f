-- Who owns a lane is named beyond doubt, because owners and epochs come back with their values when a database goes back:
-- to a replica that was behind, or to a backup.
--   nonce  drawn at random when the lane is taken
--   beat   drawn at random whenever the lease is renewed
--   ttl    how long the lease was when it was renewed, in microseconds
ALTER TABLE {{.Table "outbox_lanes"}}
    ADD COLUMN IF NOT EXISTS nonce bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS beat  bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS ttl   bigint NOT NULL DEFAULT 0;
--bun:split
-- protocol is how the relay and those who write beside it use the lanes: see internal/store/protocol.go.
ALTER TABLE {{.Table "outbox_relays"}}
    ADD COLUMN IF NOT EXISTS ttl      bigint  NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS protocol integer NOT NULL DEFAULT 0;
