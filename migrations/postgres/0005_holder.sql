-- Who has taken over a log last: that process knows itself again when it has lost the answer to that.
ALTER TABLE log ADD COLUMN holder TEXT NOT NULL DEFAULT '';
