-- The replica's ledger and its tombstones: what every key was last brought to (P6, P7).
-- updated_at is the master's clock (cqrs_updated), and null when the master sent none.
CREATE TABLE {{.Table "replica_revisions"}} (
    model      text    NOT NULL,
    key        text    NOT NULL,
    revision   integer NOT NULL,
    deleted    integer NOT NULL DEFAULT 0,
    updated_at integer,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that can never be applied, whole, with the reason. Nothing is dropped (P9).
CREATE TABLE {{.Table "replica_dead_letters"}} (
    id       integer PRIMARY KEY AUTOINCREMENT,
    queue    text    NOT NULL,
    model    text,
    key      text,
    revision integer,
    body     text    NOT NULL,
    metadata text    NOT NULL,
    error    text    NOT NULL,
    dead_at  integer NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS integer))
);
