-- Times are milliseconds since 1970-01-01 UTC. Texts come last in their rows, so that looking at the other columns of a row
-- never reads the pages of a long text.

CREATE TABLE tasks (
    id           INTEGER PRIMARY KEY,
    accepted_at  INTEGER NOT NULL,
    priority     INTEGER NOT NULL,  -- 0 normal, 1 high, 2 low
    target       TEXT,              -- the group; NULL: every group
    key          TEXT,
    not_before   INTEGER,
    expires_at   INTEGER,
    max_attempts INTEGER,           -- NULL: as the server is set
    text         TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX tasks_key ON tasks (key) WHERE key IS NOT NULL;
-- The backlogs, each exactly: of one group, and of everyone. An index ends in the id by itself, so both are read in its order.
CREATE INDEX tasks_addressed ON tasks (target, priority) WHERE target IS NOT NULL;
CREATE INDEX tasks_broadcast ON tasks (priority) WHERE target IS NULL;

CREATE TABLE results (
    seq        INTEGER PRIMARY KEY,
    task_id    INTEGER NOT NULL,
    "group"    TEXT,              -- NULL: an anonymous client
    client     TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    outcome    INTEGER NOT NULL,  -- 0 done, 1 retry, 2 failed, 4 lost, 5 timed out, 6 exhausted, 7 expired, 8 cancelled, 9 revived, 10 dropped
    at         INTEGER NOT NULL,
    not_before INTEGER,
    late       INTEGER NOT NULL,  -- 1: it changed nothing
    ret        TEXT NOT NULL
) STRICT;

CREATE INDEX results_task ON results (task_id);
-- The dead letters, of one group and of all.
CREATE INDEX results_dead_group ON results ("group") WHERE outcome IN (2, 6) AND late = 0;
CREATE INDEX results_dead ON results (seq) WHERE outcome IN (2, 6) AND late = 0;

CREATE TABLE statuses (
    seq    INTEGER PRIMARY KEY,
    client TEXT NOT NULL,
    at     INTEGER NOT NULL,
    msg    TEXT NOT NULL
) STRICT;

CREATE TABLE groups (
    name            TEXT PRIMARY KEY,
    created_at      INTEGER NOT NULL,
    broadcast_after INTEGER NOT NULL,  -- broadcasts up to here are not for it
    paused          INTEGER NOT NULL,
    last_used       INTEGER NOT NULL,  -- when a client of it was last connected
    cursors         TEXT NOT NULL,     -- [high, normal, low]: every task of the class up to here is settled, or open
    settled         TEXT NOT NULL,     -- behind the cursor: [[first, last], ...]
    open            TEXT NOT NULL      -- delivered, not settled: [[id, attempts, not_before or null], ...]
) STRICT, WITHOUT ROWID;

-- The last position of each log, for they never go back; and the result up to which `groups` contains what came of tasks.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta VALUES ('last_task', 0), ('last_result', 0), ('last_status', 0), ('mark', 0);
