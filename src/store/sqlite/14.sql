-- Which chunks of tasks have some of a lane, so that those of one lane are found among the others.
CREATE TABLE lanes (
    lane     TEXT NOT NULL,
    target   TEXT NOT NULL,     -- the group; empty: every group
    priority INTEGER NOT NULL,
    first    INTEGER NOT NULL,  -- of the chunk
    PRIMARY KEY (lane, target, priority, first)
) STRICT, WITHOUT ROWID;

ALTER TABLE open_tasks ADD COLUMN lane TEXT;  -- NULL: none
-- 0: it is in no lane, or waits there; 1: it has a place; 2: it is not open any more, but a dead letter that holds its place.
ALTER TABLE open_tasks ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
-- As in max-in-flight=10,max-begun-per-second=2.5,lane-max=2,lane-on-dead=hold; NULL: none.
ALTER TABLE groups ADD COLUMN limits TEXT;
-- [[lane, priority, after, upto, count], ...]: tasks of the lane after the one up to the other that the cursor has passed and that
-- wait; NULL: none. In `groups.open`, a fifth is [lane, whether it has a place].
ALTER TABLE groups ADD COLUMN lanes TEXT;

-- The head of a chunk of tasks may say of an entry in which `lane` it is.
DROP VIEW tasks;
CREATE VIEW tasks AS SELECT
    chunk.first + (entry.value ->> 0) AS id,
    chunk.newest - coalesce(entry.value ->> '$[3].ago', 0) AS accepted_at,
    chunk.priority,
    chunk.target,
    entry.value ->> '$[3].groups' AS groups,
    entry.value ->> '$[3].select' AS selector,
    iif(changes.keyless, NULL, entry.value ->> '$[3].key') AS key,
    entry.value ->> '$[3].not_before' AS not_before,
    iif(changes.task_id, changes.expires_at, entry.value ->> '$[3].expires_at') AS expires_at,
    entry.value ->> '$[3].max_attempts' AS max_attempts,
    entry.value ->> '$[3].retry' AS retry,
    entry.value ->> '$[3].limit[0]' AS timeout_ms,
    entry.value ->> '$[3].limit[1]' AS timeout_fails,
    entry.value ->> '$[3].lane' AS lane,
    nullif((SELECT said.value ->> '$[3].by[0]' FROM json_each(chunk.head) AS said
        WHERE said.key <= entry.key AND said.value -> '$[3].by' IS NOT NULL ORDER BY said.key DESC LIMIT 1), '') AS submitted_by,
    entry.value ->> '$[3].headers' AS headers,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS text,
    substr(chunk.texts, 1 + (entry.value ->> 1) + (entry.value ->> 2), entry.value ->> '$[3].data') AS data,
    chunk.first,
    chunk.last
FROM task_chunks AS chunk, json_each(chunk.head) AS entry
LEFT JOIN changes ON changes.task_id = chunk.first + (entry.value ->> 0);
