-- A run: one thing to do on many machines. Its number is the id of its first task.
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    -- NULL: it goes on.
    ended_at INTEGER,
    -- All else, as JSON: what is to be done, in which parts, how far it is, and which tasks it has, each with the number of targets.
    run TEXT NOT NULL,
    -- The names of the groups that it is for, as a list in JSON, in the order of its tasks.
    targets TEXT NOT NULL,
    -- The state of each of them at the end, a letter each: d done, f failed, e expired, c cancelled. NULL: it goes on.
    ended TEXT
);
CREATE INDEX runs_open ON runs (number) WHERE ended_at IS NULL;
