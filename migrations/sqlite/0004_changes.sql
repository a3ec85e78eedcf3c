-- Records of changes of objects, which alone begin with {"event":{"name":" : so that the last one of an object is found,
-- and its row held against it, without reading the log. The log itself is what is looked up: there is nothing beside it.
CREATE INDEX change ON entry (record)
    WHERE record >= x'7b226576656e74223a7b226e616d65223a22' AND record < x'7b226576656e74223a7b226e616d65223a23';
