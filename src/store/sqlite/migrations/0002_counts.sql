-- How many sagas of each queue are in each state, as of the revision `counted` of `meta`; below zero: not counted yet.
-- What changed since then is in the events behind it. Stored now and then, and in each transaction that removes events.
CREATE TABLE queue_count (
    queue        INTEGER PRIMARY KEY REFERENCES queue (id),
    planned      INTEGER NOT NULL,
    dispatched   INTEGER NOT NULL,
    running      INTEGER NOT NULL,
    compensating INTEGER NOT NULL,
    completed    INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    compensated  INTEGER NOT NULL,
    quarantined  INTEGER NOT NULL
) STRICT;

-- PurgeSagas and retention: those of a state, the longest unchanged first.
DROP INDEX work_terminal;
CREATE INDEX work_terminal ON work (state, update_time) WHERE state >= 5;

INSERT INTO meta (key, value) VALUES ('counted', -1);
