-- What lies in a store of version 1 or 2 as the tables of version 3, for a connection that only reads: the verification looks at it
-- before anything is changed.
CREATE TEMP VIEW ended AS SELECT * FROM main.work WHERE state >= 5;
CREATE TEMP VIEW work AS SELECT id, queue, priority, nullif(ready, 0) AS ready, state, revision, update_time, due_at,
    due_since, attempt, compensations, expired_revision, lease_token, lease_purpose, lease_acquire, lease_heartbeat,
    lease_expire, lease_ttl, lease_limit, lease_progress_time, lease_standing, lease_owner,
    nullif(json_patch('{}', json_object('expirations', nullif(expirations, 0), 'failures', nullif(failures, 0),
        'not_before', not_before, 'settle_until', settle_until, 'idle_since', idle_since, 'expired_at', expired_at,
        'assignee', assignee, 'reserved_until', reserved_until, 'cancel_actor', cancel_actor,
        'cancel_reason', cancel_reason)), '{}') AS more,
    progress, result
    FROM main.work WHERE state < 5;
CREATE TEMP VIEW old_event AS SELECT * FROM main.event;
CREATE TEMP TABLE event (
    revision INTEGER PRIMARY KEY, saga INTEGER, prev INTEGER, time INTEGER, kind INTEGER, from_state INTEGER,
    to_state INTEGER, token INTEGER, actor TEXT, reason TEXT, details TEXT, expire_time INTEGER, purpose INTEGER,
    attempt INTEGER, mark INTEGER, owner TEXT, cause INTEGER
);
