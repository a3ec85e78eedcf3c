-- Openings and closings of logs: {"event":{"tokens": and {"event":{"type":"log-closed"} are how no other records begin. Each
-- log tells of those of the others.
CREATE INDEX turn ON entry (log_id, seq)
    WHERE record >= '\x7b226576656e74223a7b22746f6b656e73223a'::bytea
    AND record < '\x7b226576656e74223a7b22746f6b656e73223b'::bytea
    OR record >= '\x7b226576656e74223a7b2274797065223a226c6f672d636c6f736564227d'::bytea
    AND record < '\x7b226576656e74223a7b2274797065223a226c6f672d636c6f736564227e'::bytea;
