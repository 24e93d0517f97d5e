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
