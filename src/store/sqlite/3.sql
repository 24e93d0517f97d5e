-- The open tasks of a group that wait, or were open for more than some checkpoints: written when they change, removed when they are
-- settled. `groups.open` has only the others; what an older server left there is read, and moves when its group changes.
CREATE TABLE open_tasks (
    "group"    TEXT NOT NULL,
    task_id    INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,  -- how often it was delivered
    spent      INTEGER NOT NULL,  -- attempts that were spent
    begun      INTEGER NOT NULL,  -- 1: the last delivery is among them
    silent     INTEGER NOT NULL,  -- how many of the last deliveries ended with a client that was not heard of again
    not_before INTEGER,
    PRIMARY KEY ("group", task_id)
) STRICT, WITHOUT ROWID;

-- The dead letters: tasks that a group gave up, and that an operator has neither dropped nor given out again since. Each with the
-- result by which it was given up.
CREATE TABLE dead (
    seq     INTEGER PRIMARY KEY,  -- of the result
    task_id INTEGER NOT NULL,
    "group" TEXT,                 -- NULL: an anonymous client
    client  TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    ret     TEXT NOT NULL
) STRICT;

-- How many each group has.
CREATE TABLE dead_counts (
    "group" TEXT PRIMARY KEY,
    count   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER dead_came AFTER INSERT ON dead WHEN NEW."group" IS NOT NULL BEGIN
    INSERT INTO dead_counts VALUES (NEW."group", 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER dead_went AFTER DELETE ON dead WHEN OLD."group" IS NOT NULL BEGIN
    UPDATE dead_counts SET count = count - 1 WHERE "group" = OLD."group";
    DELETE FROM dead_counts WHERE "group" = OLD."group" AND count = 0;
END;

-- Of a result after which nothing else decided over its task in that group: done 0, failed 2, exhausted 6, expired 7, cancelled 8,
-- revived 9, dropped 10.
INSERT INTO dead SELECT seq, task_id, "group", client, attempt, outcome, at, ret FROM results AS gave_up
    WHERE outcome IN (2, 6) AND late = 0 AND NOT EXISTS (
        SELECT 1 FROM results AS later
        WHERE later.task_id = gave_up.task_id AND later."group" = gave_up."group" AND later.late = 0
            AND later.seq > gave_up.seq AND later.outcome IN (0, 2, 6, 7, 8, 9, 10))
    ORDER BY seq;

-- Those of a task, those of a group in their order.
CREATE INDEX dead_task ON dead (task_id, "group");
CREATE INDEX dead_group ON dead ("group");
DROP INDEX results_dead;
DROP INDEX results_dead_group;

-- What is said of retries of a group's tasks, as in max=5,first=10s,factor=2,cap=10m,jitter=0.1; NULL: as the server is set.
ALTER TABLE groups ADD COLUMN retry TEXT;
