-- The lanes there are, once more: writers hold their lane's row until they commit, which they could not do with those of
-- outbox_lanes, because relays write them all the time. "relay lanes set" changes both.
CREATE TABLE IF NOT EXISTS {{.Table "outbox_lane_numbers"}} (
    lane smallint NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "outbox_lane_numbers"}} (lane) SELECT lane FROM {{.Table "outbox_lanes"}};
