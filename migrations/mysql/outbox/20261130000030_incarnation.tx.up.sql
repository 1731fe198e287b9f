-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE IF NOT EXISTS {{.Table "outbox_incarnation"}} (
    single     smallint     NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       varchar(64)  NOT NULL,
    drawn_at bigint       NOT NULL,
    reason   varchar(500) NOT NULL,
    place    varchar(500) NOT NULL DEFAULT ''
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, CONCAT(LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 16)), '-', LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 8))), TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), 'the tables were made');
