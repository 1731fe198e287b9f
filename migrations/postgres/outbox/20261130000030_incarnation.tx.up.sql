-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE {{.Table "outbox_incarnation"}} (
    single     smallint    NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       text        NOT NULL,
    drawn_at timestamptz NOT NULL,
    reason   text        NOT NULL,
    place    text        NOT NULL DEFAULT ''
);
--bun:split
INSERT INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, substr(md5(random()::text || clock_timestamp()::text || random()::text), 1, 16) || '-' || substr(md5(random()::text || clock_timestamp()::text || random()::text), 1, 8), clock_timestamp(), 'the tables were made');
