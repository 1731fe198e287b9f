-- Which course of history the master's database is on. It travels beside each message, so that replicas notice when the database
-- goes back to an earlier state, and when two masters write the same model.
--   id       a part drawn when the tables were made, and one drawn anew whenever the database went back
--   place    where the database was when it was looked at last: a restored copy is somewhere else
CREATE TABLE {{.Table "outbox_incarnation"}} (
    single     integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id       text    NOT NULL,
    drawn_at integer NOT NULL,
    reason   text    NOT NULL,
    place    text    NOT NULL DEFAULT ''
);
--bun:split
INSERT INTO {{.Table "outbox_incarnation"}} (single, id, drawn_at, reason)
VALUES (1, lower(hex(randomblob(8))) || '-' || lower(hex(randomblob(4))), CAST(unixepoch('now', 'subsec') * 1000000 AS integer), 'the tables were made');
