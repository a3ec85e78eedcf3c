-- One file holds one log, so that its records need no other key than their place.
CREATE TABLE record (
    seq INTEGER NOT NULL PRIMARY KEY,
    record BLOB NOT NULL
) STRICT;
INSERT INTO record (seq, record)
    SELECT seq, record FROM entry WHERE log_id = (SELECT value FROM fact WHERE name = 'log') ORDER BY seq;
DROP TABLE entry;
ALTER TABLE record RENAME TO entry;

-- No intent before this place is open. What is open is read from the records themselves.
ALTER TABLE log ADD COLUMN open_from INTEGER NOT NULL DEFAULT 0;
DROP TABLE open_intent;
