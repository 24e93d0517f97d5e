-- The head of a chunk of tasks says of those that replace others `replace`: [key, [quiet, at most or null, since] or null, the task whose
-- place it took or null], times in milliseconds. The newest of each key and address:
CREATE TABLE slots (
    key     TEXT NOT NULL,
    address TEXT NOT NULL,     -- '': everyone; ["name", ...]; or a selector
    task_id INTEGER NOT NULL,
    PRIMARY KEY (key, address)
) STRICT, WITHOUT ROWID;

-- Of one whose place was taken, `expires_at` says when, as of a cancelled one.
ALTER TABLE changes ADD COLUMN replaced_by INTEGER;

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
    entry.value ->> '$[3].replace[0]' AS replace_key,
    changes.replaced_by,
    nullif((SELECT said.value ->> '$[3].by[0]' FROM json_each(chunk.head) AS said
        WHERE said.key <= entry.key AND said.value -> '$[3].by' IS NOT NULL ORDER BY said.key DESC LIMIT 1), '') AS submitted_by,
    entry.value ->> '$[3].headers' AS headers,
    CAST(substr(chunk.texts, 1 + (entry.value ->> 1), entry.value ->> 2) AS TEXT) AS text,
    substr(chunk.texts, 1 + (entry.value ->> 1) + (entry.value ->> 2), entry.value ->> '$[3].data') AS data,
    chunk.first,
    chunk.last
FROM task_chunks AS chunk, json_each(chunk.head) AS entry
LEFT JOIN changes ON changes.task_id = chunk.first + (entry.value ->> 0);
