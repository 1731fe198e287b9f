-- The replica's ledger and its tombstones: what every key was last brought to (P6, P7).
-- updated_at is the master's clock (cqrs_updated), and null when the master sent none.
CREATE TABLE {{.Table "replica_revisions"}} (
    model      text    NOT NULL,
    key        text    NOT NULL,
    revision   bigint  NOT NULL,
    deleted    boolean NOT NULL DEFAULT false,
    updated_at timestamptz,
    PRIMARY KEY (model, key)
);
--bun:split
-- Messages that can never be applied, whole, with the reason. Nothing is dropped (P9).
CREATE TABLE {{.Table "replica_dead_letters"}} (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue    text        NOT NULL,
    model    text,
    key      text,
    revision bigint,
    body     text        NOT NULL,
    metadata json        NOT NULL,
    error    text        NOT NULL,
    dead_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
