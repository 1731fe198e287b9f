-- applied_at is when this replica wrote the row, by its database's clock: what changed after a listing is told by it, and by no
-- clock of somebody else.
ALTER TABLE {{.Table "replica_revisions"}} ADD COLUMN applied_at integer;
--bun:split
-- Which database this is. It is noted with the queue, so that two databases behind one queue notice each other.
CREATE TABLE {{.Table "replica_identity"}} (
    single integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id     text    NOT NULL
);
--bun:split
INSERT INTO {{.Table "replica_identity"}} (single, id) VALUES (1, lower(hex(randomblob(8))));
--bun:split
-- The other databases that were found behind a queue of this one.
CREATE TABLE {{.Table "replica_databases"}} (
    queue    text    NOT NULL,
    id       text    NOT NULL,
    first_at integer NOT NULL,
    last_at  integer NOT NULL,
    times    integer NOT NULL,
    PRIMARY KEY (queue, id)
);
--bun:split
-- The incarnations of masters that messages came from, per model; '' is that of masters that do not say.
--   first_at, last_at  by this database's clock
--   newest_at          the newest time of the master's clock among its messages
--   returns            how often it came back, with news, after a later one had come: two masters write the model
--   overtaken          messages that were refused as stale though they are later: the master went back
CREATE TABLE {{.Table "replica_masters"}} (
    model       text    NOT NULL,
    incarnation text    NOT NULL,
    first_at    integer NOT NULL,
    last_at     integer NOT NULL,
    newest_at   integer,
    returns     integer NOT NULL DEFAULT 0,
    overtaken   integer NOT NULL DEFAULT 0,
    PRIMARY KEY (model, incarnation)
);
