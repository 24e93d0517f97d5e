-- What makes a task at certain moments.
CREATE TABLE schedules (
    name     TEXT PRIMARY KEY,
    -- All else, as JSON: when, what, and up to which moment it has come.
    schedule TEXT NOT NULL
) STRICT, WITHOUT ROWID;
