-- A topic reaches the queues bound to it. A queue exists as long as something is bound to it.
CREATE TABLE bindings (
    topic text NOT NULL,
    queue text NOT NULL,
    -- When the inbox had a consumer, in milliseconds since 1970; 0: it is none.
    inbox_used_at integer NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, queue)
) STRICT, WITHOUT ROWID;

-- One row per message and queue. There is one writer at a time, so ids ascend in the order of the commits, and a reader
-- never finds a lower id than it has seen. AUTOINCREMENT: an id is never used twice, so a late ack of a message that is
-- gone hits nothing else.
CREATE TABLE messages (
    id           integer PRIMARY KEY AUTOINCREMENT,
    queue        text    NOT NULL,
    consumer     integer NOT NULL DEFAULT 0, -- who has taken it; 0: nobody
    uuid         text    NOT NULL,
    metadata     text    NOT NULL, -- JSON
    expires_at   integer NOT NULL DEFAULT 0, -- milliseconds since 1970; 0: never
    payload      blob    NOT NULL,
    published_at integer NOT NULL -- milliseconds since 1970
) STRICT;

-- Serves taking (consumer = 0 AND queue = ? ORDER BY id: the id is the last part of every index), giving back
-- (consumer = ?) and the search for what dead consumers have taken (consumer > 0).
CREATE INDEX messages_by_consumer ON messages (consumer, queue);

-- Serves the search for what has expired. Only what will expire is in it.
CREATE INDEX messages_by_expiry ON messages (expires_at) WHERE expires_at > 0;

-- A consumer that does not renew its lease in time is dead, and what it has taken is free again. The lease is the
-- consumer's, not the message's: renewing costs one row, however many messages are in work.
CREATE TABLE consumers (
    id            integer PRIMARY KEY AUTOINCREMENT,
    leased_until  integer NOT NULL, -- milliseconds since 1970
    queue         text    NOT NULL DEFAULT ''
) STRICT;
