-- What is said of retries of a group's tasks, as in max=5,first=10s,factor=2,cap=10m,jitter=0.1; NULL: as the server is set.
ALTER TABLE groups ADD COLUMN retry TEXT;
