-- Workers that the server dials: where each listens.
CREATE TABLE dialled (
    address TEXT PRIMARY KEY,
    "group" TEXT,           -- NULL: it is a group of its own
    client  TEXT,           -- NULL: what it says, or its address
    since   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
