-- What is granted to whom, in a cluster: a server that is alone has files for that.
CREATE TABLE grants (
    shows INTEGER NOT NULL,  -- 0: a token, 1: a certificate
    name  TEXT NOT NULL,
    text  TEXT NOT NULL,
    PRIMARY KEY (shows, name)
) STRICT, WITHOUT ROWID;
