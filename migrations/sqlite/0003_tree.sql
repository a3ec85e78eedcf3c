-- The right edge of the log's Merkle tree. Nothing beside records: an earlier version wrote them, and opening the store
-- makes the tree of them.
ALTER TABLE log ADD COLUMN frontier BLOB NOT NULL DEFAULT x'';

-- Roots of complete subtrees of 2^8, 2^16, 2^24 … records, so that no proof reads more than a few hundred rows. They say
-- nothing that the records do not say.
CREATE TABLE subtree (
    log_id TEXT NOT NULL,
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    root BLOB NOT NULL,
    PRIMARY KEY (log_id, level, place)
) STRICT, WITHOUT ROWID;

-- Signed checkpoints, in the order in which they were signed. Never updated, never deleted.
CREATE TABLE checkpoint (
    log_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (log_id, place)
) STRICT, WITHOUT ROWID;
