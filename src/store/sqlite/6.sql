-- Of each client the newest statuses are kept: they are found by client, and counted as they come and go.
CREATE INDEX statuses_client ON statuses (client);

CREATE TABLE status_counts (
    client TEXT PRIMARY KEY,
    count  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO status_counts SELECT client, count(*) FROM statuses GROUP BY client;

CREATE TRIGGER status_came AFTER INSERT ON statuses BEGIN
    INSERT INTO status_counts VALUES (NEW.client, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER status_went AFTER DELETE ON statuses BEGIN
    UPDATE status_counts SET count = count - 1 WHERE client = OLD.client;
    DELETE FROM status_counts WHERE client = OLD.client AND count = 0;
END;
