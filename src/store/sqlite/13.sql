-- The heads of chunks may say of an entry `headers`, as {"key": "value", ...}, and `data`: so many bytes that stand in `texts` right
-- behind its text. Dead letters have both, too.
ALTER TABLE dead ADD COLUMN headers TEXT;  -- NULL: none
ALTER TABLE dead ADD COLUMN data BLOB;     -- NULL: none

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
    nullif((SELECT said.value ->> '$[3].by[0]' FROM json_each(chunk.head) AS said
        WHERE said.key <= entry.key AND said.value -> '$[3].by' IS NOT NULL ORDER BY said.key DESC LIMIT 1), '') AS submitted_by,
    entry.value ->> '$[3].headers' AS headers,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS text,
    substr(chunk.texts, 1 + (entry.value ->> 1) + (entry.value ->> 2), entry.value ->> '$[3].data') AS data,
    chunk.first,
    chunk.last
FROM task_chunks AS chunk, json_each(chunk.head) AS entry
LEFT JOIN changes ON changes.task_id = chunk.first + (entry.value ->> 0);

DROP VIEW results;
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
    entry.value ->> '$[8].headers' AS headers,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS ret,
    substr(chunk.texts, 1 + (entry.value ->> 1) + (entry.value ->> 2), entry.value ->> '$[8].data') AS data,
    chunk.first,
    chunk.last
FROM result_chunks AS chunk, json_each(chunk.head) AS entry;
