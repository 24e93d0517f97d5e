-- How long a task waits before it goes out again, as in first=10s,factor=2,cap=10m,jitter=0.1; NULL: as the server is set.
ALTER TABLE tasks ADD COLUMN retry TEXT;
-- Outcomes: 11 released. `groups.open` is [[id, deliveries, not_before or null], ...] where every delivery is an attempt that was
-- spent; else a fourth says what is: [attempts spent, whether the last delivery is among them, how many were silent].
