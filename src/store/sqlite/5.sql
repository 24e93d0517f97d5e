-- Clients that are drained: they are given no more tasks, until somebody says otherwise.
CREATE TABLE drains (
    client TEXT PRIMARY KEY,
    since  INTEGER NOT NULL,
    until  INTEGER,         -- NULL: without an end
    note   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
