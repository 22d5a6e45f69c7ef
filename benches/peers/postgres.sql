-- One cycle; each statement is a transaction of its own.
UPDATE task SET state = 'running', owner = :client_id, token = token + 1, heartbeat = now(), expires = now() + interval '30 s' WHERE id = (SELECT id FROM task WHERE state = 'planned' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, token \gset
UPDATE task SET heartbeat = now(), expires = now() + interval '30 s' WHERE id = :id AND owner = :client_id AND token = :token AND state = 'running' AND expires > now();
UPDATE task SET state = 'completed' WHERE id = :id AND owner = :client_id AND token = :token AND state = 'running';
