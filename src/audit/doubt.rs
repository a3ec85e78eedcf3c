//! A record that does not fit, and what the records behind it show about the cause.
//!
//! An edited, a moved, an added and a missing record first look the same: something does not follow. The rest of the log
//! tells them apart: whether the record that was due comes later, whether this one comes again, whether the next one
//! continues it.

use crate::audit::chain::{ChainHash, Head};
use crate::audit::line::Line;
use crate::audit::verify::Finding;

/// In which way a record does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is no record, or its log, number or hash is not the one that is due.
    Link,
    /// It is the one that is due, but says what cannot be.
    Sense(Finding),
}

/// The first record that does not fit.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Where the log stood before it.
    due: Head,
    misfit: Misfit,
    /// Its number, whether it is of this log, and whether it carries the hash that was due; nothing if it is no record.
    found: Option<Found>,
    hash: ChainHash,
    message: String,
    /// The number of a later record that carries the hash that was due here.
    due_later: Option<u64>,
    /// Whether the same record stands in the log again.
    again: bool,
    /// Whether the very next record continues this one; nothing if there is none.
    continued: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    seq: u64,
    of_this_log: bool,
    linked: bool,
}

impl Doubt {
    pub(super) fn new(due: Head, misfit: Misfit, line: Option<&Line<'_>>, bytes: &[u8], message: &str) -> Self {
        let found =
            line.map(|line| Found { seq: line.seq, of_this_log: line.log == due.log, linked: line.prev == due.chain });
        let (hash, message) = (ChainHash::of(bytes), message.to_owned());
        Doubt { due, misfit, found, hash, message, due_later: None, again: false, continued: None }
    }

    /// Takes notice of a later line.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let line = Line::read(bytes).ok();
        self.continued.get_or_insert(line.as_ref().is_some_and(|line| line.prev == self.hash));
        let Some(line) = line.filter(|line| line.log == self.due.log) else { return };
        if line.prev == self.due.chain {
            self.due_later.get_or_insert(line.seq);
        }
        // Hashing every line behind a break would take as long as verifying: the number is looked at first.
        if self.found.is_some_and(|found| found.seq == line.seq) && ChainHash::of(bytes) == self.hash {
            self.again = true;
        }
    }

    /// The cause, in one word and in several. `signed` is the hash of the log's last record as it was signed, if this was
    /// the last.
    pub(super) fn resolve(&self, signed: Option<ChainHash>) -> (Finding, String) {
        let finding = self.cause(signed);
        let words = match finding {
            Finding::Deleted => "records are missing before this one",
            Finding::Inserted => "a record stands here that was not written here",
            Finding::Reordered => "records stand in another order than they were written in",
            Finding::Spliced => "a record of another log stands here",
            Finding::Edited => "this record or the one before it was changed",
            _ => return (finding, self.message.clone()),
        };
        (finding, format!("{words}: {}", self.message))
    }

    fn cause(&self, signed: Option<ChainHash>) -> Finding {
        let due = self.due.size;
        let written_so = || match self.continued {
            Some(continued) => continued,
            None => signed.is_none_or(|signed| signed == self.hash),
        };
        match (self.misfit, self.found) {
            (Misfit::Sense(finding), _) if written_so() => finding,
            (Misfit::Sense(_), _) if self.due_later.is_some() => Finding::Inserted,
            (Misfit::Sense(_), _) => Finding::Edited,
            // Of another log, and not just by a changed name: then it would be in its place, and the next not its own.
            (_, Some(found)) if !found.of_this_log => {
                let is_in_place = found.linked && found.seq == due;
                if is_in_place && self.continued != Some(true) { Finding::Edited } else { Finding::Spliced }
            }
            // The link holds, so that it is this record and no other; its number was changed.
            (_, Some(found)) if found.linked => Finding::Edited,
            (_, found) => match (found, self.due_later) {
                (None, Some(_)) => Finding::Inserted,
                (None, None) => Finding::Edited,
                (Some(_), Some(_)) if self.again => Finding::Inserted,
                (Some(found), _) if found.seq < due => Finding::Inserted,
                (Some(found), Some(later)) if found.seq == due && later == due => Finding::Inserted,
                (Some(_), Some(_)) => Finding::Reordered,
                (Some(found), None) if found.seq > due => Finding::Deleted,
                (Some(_), None) => Finding::Edited,
            },
        }
    }
}
