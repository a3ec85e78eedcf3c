-- Records of changes of objects, which alone begin with {"event":{"name":" : so that the last one of an object is found,
-- and its row held against it, without reading the logs. The logs themselves are what is looked up.
CREATE INDEX change ON entry (record)
    WHERE record >= '\x7b226576656e74223a7b226e616d65223a22'::bytea
    AND record < '\x7b226576656e74223a7b226e616d65223a23'::bytea;
