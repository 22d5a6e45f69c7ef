-- A store with one running saga, as the coordinator would have written it: for the tests of the verification.
INSERT INTO queue (id, name) VALUES (1, 'default');
INSERT INTO saga (id, task_id, saga_id, queue, priority, branch, worktree, labels, create_time, on_stale,
    max_expirations, on_failure, max_attempts, retry_backoff, retry_backoff_max, settle, compensation_timeout, payload)
    VALUES (1, 't-1', 's-1', 1, 0, '', '', '{}', 1000, 1, 3, 1, 1, 1000000, 300000000, 0, 86400000000, x'');
INSERT INTO work (id, queue, priority, state, due_at, due_since, revision, attempt, compensations, update_time,
    lease_token, lease_purpose, lease_acquire, lease_heartbeat, lease_expire, lease_ttl, lease_limit,
    lease_progress_time, lease_standing, lease_owner)
    VALUES (1, 1, 0, 3, 30002000, 2000, 2, 1, 1, 2000, 2, 1, 2000, 2000, 30002000, 30000000, 1, 2000, 1, 'w-1');
INSERT INTO compensation VALUES (1, 1, 'branch', 'fix-7', '', 1, 0, '', NULL, NULL, NULL, NULL);
INSERT INTO event (revision, saga, prev, time, kind, from_state, to_state, token, actor, details, expire_time, purpose,
    attempt) VALUES
    (1, 1, NULL, 1000, 1, NULL, 1, NULL, NULL, '{"compensations":"1"}', NULL, NULL, NULL),
    (2, 1, 1, 2000, 3, 1, 3, 2, 'w-1', NULL, 30002000, 1, 1);
UPDATE meta SET value = 3 WHERE key = 'revision_floor';
