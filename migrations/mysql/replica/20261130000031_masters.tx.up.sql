-- applied_at is when this replica wrote the row, by its database's clock: what changed after a listing is told by it, and by no
-- clock of somebody else.
ALTER TABLE {{.Table "replica_revisions"}} ADD COLUMN IF NOT EXISTS applied_at bigint;
--bun:split
-- Which database this is. It is noted with the queue, so that two databases behind one queue notice each other.
CREATE TABLE IF NOT EXISTS {{.Table "replica_identity"}} (
    single smallint    NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id     varchar(64) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
INSERT IGNORE INTO {{.Table "replica_identity"}} (single, id) VALUES (1, LOWER(SUBSTR(SHA2(CONCAT(UUID(), RAND()), 256), 1, 16)));
--bun:split
-- The other databases that were found behind a queue of this one.
CREATE TABLE IF NOT EXISTS {{.Table "replica_databases"}} (
    queue    varchar(255) NOT NULL,
    id       varchar(64)  NOT NULL,
    first_at bigint       NOT NULL,
    last_at  bigint       NOT NULL,
    times    bigint       NOT NULL,
    PRIMARY KEY (queue, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
--bun:split
-- The incarnations of masters that messages came from, per model; '' is that of masters that do not say.
--   first_at, last_at  by this database's clock
--   newest_at          the newest time of the master's clock among its messages
--   returns            how often it came back, with news, after a later one had come: two masters write the model
--   overtaken          messages that were refused as stale though they are later: the master went back
CREATE TABLE IF NOT EXISTS {{.Table "replica_masters"}} (
    model       varchar(200) NOT NULL,
    incarnation varchar(64)  NOT NULL,
    first_at    bigint       NOT NULL,
    last_at     bigint       NOT NULL,
    newest_at   bigint,
    returns     bigint       NOT NULL DEFAULT 0,
    overtaken   bigint       NOT NULL DEFAULT 0,
    PRIMARY KEY (model, incarnation)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
