-- Facts of this store that never change: deployment, log.
CREATE TABLE fact (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Where each log ends.
CREATE TABLE log (
    log_id TEXT NOT NULL PRIMARY KEY,
    size INTEGER NOT NULL,
    chain BLOB NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The records, as the canonical bytes that were hashed. Never updated, never deleted.
CREATE TABLE entry (
    log_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (log_id, seq)
) STRICT, WITHOUT ROWID;

-- An index over `entry`: intents without an outcome. What is open at start-up is closed then.
CREATE TABLE open_intent (
    log_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (log_id, seq)
) STRICT, WITHOUT ROWID;

-- Clusters, keys, principals, tokens: the last version of each, as canonical JSON.
CREATE TABLE object (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
