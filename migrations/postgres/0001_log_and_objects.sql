-- Where each instance's log ends. The epoch counts who writes it: a commit under an older one changes nothing.
CREATE TABLE log (
    log_id TEXT NOT NULL PRIMARY KEY,
    instance TEXT NOT NULL UNIQUE,
    epoch BIGINT NOT NULL,
    size BIGINT NOT NULL,
    chain BYTEA NOT NULL,
    time_us BIGINT NOT NULL,
    -- No intent before this place is open. What is open is read from the records themselves.
    open_from BIGINT NOT NULL
);

-- The records, as the canonical bytes that were hashed. Never updated, never deleted.
CREATE TABLE entry (
    log_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    record BYTEA NOT NULL,
    PRIMARY KEY (log_id, seq)
);

-- Clusters, keys, principals, tokens: the last version of each, as canonical JSON. Names in the order of their bytes.
CREATE TABLE object (
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (kind, name)
);

-- Work that one instance at a time may do, who has it, and until when by the database's clock.
CREATE TABLE lease (
    name TEXT NOT NULL PRIMARY KEY,
    log_id TEXT NOT NULL,
    until_us BIGINT NOT NULL
);
