-- The right edge of the log's Merkle tree. Nothing beside records: an earlier version wrote them, and opening the log
-- makes the tree of them.
ALTER TABLE log ADD COLUMN frontier BYTEA NOT NULL DEFAULT '';

-- Roots of complete subtrees of 2^8, 2^16, 2^24 … records, so that no proof reads more than a few hundred rows. They say
-- nothing that the records do not say.
CREATE TABLE subtree (
    log_id TEXT NOT NULL,
    level BIGINT NOT NULL,
    place BIGINT NOT NULL,
    root BYTEA NOT NULL,
    PRIMARY KEY (log_id, level, place)
);

-- Signed checkpoints, in the order in which they were signed. Never updated, never deleted.
CREATE TABLE checkpoint (
    log_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (log_id, place)
);
