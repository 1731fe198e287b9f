"""A shop that knows nothing of cqrsync: it writes its tables with plain SQL."""

import random
import sqlite3
import sys

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id     integer PRIMARY KEY,
    number text NOT NULL UNIQUE,
    status text NOT NULL
);
CREATE TABLE IF NOT EXISTS order_lines (
    id       integer PRIMARY KEY,
    order_id integer NOT NULL REFERENCES orders ON DELETE CASCADE,
    product  text NOT NULL,
    quantity integer NOT NULL
);
"""


def connect(path):
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def trade(db, days):
    """Takes orders, packs them, loses some, and tidies up, each in a transaction."""
    for day in range(days):
        db.execute("BEGIN IMMEDIATE")
        for _ in range(random.randint(1, 4)):
            number = "A-%d" % random.randint(1, 60)
            row = db.execute(
                "INSERT INTO orders (number, status) VALUES (?, 'new')"
                " ON CONFLICT (number) DO UPDATE SET status = 'again' RETURNING id",
                (number,),
            ).fetchone()
            db.execute(
                "INSERT INTO order_lines (order_id, product, quantity) VALUES (?, ?, ?)",
                (row[0], "product %d" % day, random.randint(1, 9)),
            )
        db.execute("SAVEPOINT regret")
        db.execute("UPDATE orders SET status = 'lost'")
        db.execute("ROLLBACK TO regret")
        db.execute("COMMIT")
        db.execute("UPDATE orders SET status = 'packed' WHERE status = 'new' AND id % 2 = 0")
        if day % 7 == 6:
            db.execute("DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 3)")
        if day % 5 == 4:
            db.execute("REPLACE INTO orders (number, status) VALUES (?, 'replaced')", ("A-%d" % day,))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("create", "trade"):
        sys.exit("usage: python3 shop.py FILE create|trade")
    shop = connect(sys.argv[1])
    if sys.argv[2] == "create":
        shop.executescript(SCHEMA)
    else:
        trade(shop, 100)
        print(shop.execute("SELECT count(*) FROM orders").fetchone()[0], "orders")
