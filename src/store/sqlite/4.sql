-- The logs in chunks: a row is what one transaction appended for one group and priority, or what came of one block of tasks.
-- What stands in a chunk is listed in `head`, as JSON, an element for each entry, in the order of positions. Its first numbers are
-- the entry's distance from `first`, where its text begins in `texts`, counted from 0, and how many bytes it has.
--
-- No two segments overlap: `segment` is the first position of the one that the chunk is of. See src/store/chunk.rs.

CREATE TABLE task_chunks (
    first    INTEGER PRIMARY KEY,  -- id of the first task
    last     INTEGER NOT NULL,     -- and of the last
    segment  INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    target   TEXT,                 -- the group; NULL: every group
    priority INTEGER NOT NULL,     -- 0 normal, 1 high, 2 low
    newest   INTEGER NOT NULL,     -- when the newest was accepted
    head     TEXT NOT NULL,        -- [[distance, start, length, {what only some have}], ...]; ago: accepted so long before `newest`
    texts    BLOB NOT NULL
) STRICT;

-- All that looking for chunks asks for, so that the chunks themselves are not read for it.
CREATE INDEX task_chunks_class ON task_chunks (target, priority, first, last, count, newest);

-- The keys by which tasks are known.
CREATE TABLE keys (
    key     TEXT PRIMARY KEY,
    task_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Of tasks that were changed after they were written. These values count.
CREATE TABLE changes (
    task_id    INTEGER PRIMARY KEY,
    expires_at INTEGER,
    keyless    INTEGER NOT NULL  -- 1: the key was freed
) STRICT;

CREATE TABLE result_chunks (
    first      INTEGER PRIMARY KEY,  -- seq of the first result
    last       INTEGER NOT NULL,     -- and of the last
    segment    INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    block      INTEGER NOT NULL,     -- task_id >> 8; -1: without a task
    first_task INTEGER NOT NULL,     -- the lowest id of a task
    last_task  INTEGER NOT NULL,     -- and the highest
    stray      INTEGER NOT NULL,     -- 1: no task of the block was there: it goes when it is old
    newest     INTEGER NOT NULL,     -- when the newest came
    names      TEXT NOT NULL,        -- of groups and clients: ["workers", ...]
    -- [[distance, start, length, task - first_task, place of the group's name or null, of the client's, outcome, came so long before
    -- `newest`, {what only some have}], ...]
    head       TEXT NOT NULL,
    texts      BLOB NOT NULL
) STRICT;

CREATE INDEX result_chunks_block ON result_chunks (block, first, first_task, last_task, count);
CREATE INDEX result_chunks_stray ON result_chunks (first) WHERE stray = 1;

-- Blocks of which tasks were removed. What came of these is removed next, out of the chunks after this one and up to this seq.
CREATE TABLE thinned (
    block INTEGER PRIMARY KEY,
    after INTEGER NOT NULL,
    upto  INTEGER NOT NULL
) STRICT;

-- What an older server left is moved into chunks at the start, bit by bit.
ALTER TABLE tasks RENAME TO task_rows;
ALTER TABLE results RENAME TO result_rows;
DROP INDEX tasks_key;
DROP INDEX tasks_addressed;
DROP INDEX tasks_broadcast;
DROP INDEX results_task;

-- For people with `sqlite3`. With `first <= N AND last >= N` beside `id = N`, no other chunks are looked at.
CREATE VIEW tasks AS SELECT
    chunk.first + (entry.value ->> 0) AS id,
    chunk.newest - coalesce(entry.value ->> '$[3].ago', 0) AS accepted_at,
    chunk.priority,
    chunk.target,
    iif(changes.keyless, NULL, entry.value ->> '$[3].key') AS key,
    entry.value ->> '$[3].not_before' AS not_before,
    iif(changes.task_id, changes.expires_at, entry.value ->> '$[3].expires_at') AS expires_at,
    entry.value ->> '$[3].max_attempts' AS max_attempts,
    entry.value ->> '$[3].retry' AS retry,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS text,
    chunk.first,
    chunk.last
FROM task_chunks AS chunk, json_each(chunk.head) AS entry
LEFT JOIN changes ON changes.task_id = chunk.first + (entry.value ->> 0);

CREATE VIEW results AS SELECT
    chunk.first + (entry.value ->> 0) AS seq,
    chunk.first_task + (entry.value ->> 3) AS task_id,
    chunk.names ->> CAST(entry.value ->> 4 AS INTEGER) AS "group",
    chunk.names ->> CAST(entry.value ->> 5 AS INTEGER) AS client,
    coalesce(entry.value ->> '$[8].attempt', 1) AS attempt,
    entry.value ->> 6 AS outcome,
    chunk.newest - (entry.value ->> 7) AS at,
    entry.value ->> '$[8].not_before' AS not_before,
    coalesce(entry.value ->> '$[8].late', 0) AS late,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS ret,
    chunk.first,
    chunk.last
FROM result_chunks AS chunk, json_each(chunk.head) AS entry;
