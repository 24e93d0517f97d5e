-- The clients that have an id and were here, as they were last.
CREATE TABLE clients (
    client     TEXT PRIMARY KEY,
    "group"    TEXT NOT NULL,
    labels     TEXT,              -- as in os=linux,role=web; NULL: none
    version    TEXT,              -- of the client's program, if it said so
    system     TEXT,              -- that it runs on, if it said so
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    here       INTEGER NOT NULL   -- 1: it was connected when this was written
) STRICT, WITHOUT ROWID;
