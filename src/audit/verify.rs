//! The offline verifier of a log: record by record, in constant memory, whatever the log's length.
//!
//! It needs no service, no store and no token. Give it the lines of an export one after the other, then ask for the
//! [`Report`]:
//!
//! ```
//! use keyward::audit::verify::{Finding, Verifier};
//!
//! let mut verifier = Verifier::new(None);
//! for line in "".lines() {
//!     verifier.line(line.as_bytes());
//! }
//! let report = verifier.finish();
//! // Without a trusted checkpoint a log is never called good: its end might be missing.
//! assert_eq!(report.finding, Finding::Untrusted);
//! ```
//! [`export`] does the same over a file. Checkpoints are opened with [`open_checkpoint`] and the keys of
//! [`Trust`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use serde::Serialize;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::Checkpoint;
use crate::audit::doubt::{Doubt, Misfit};
use crate::audit::line::Line;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::note::{Note, VerifierKey};
use crate::audit::others::Others;
use crate::audit::trust::Trust;
use crate::error::{Error, Reason};

/// Longest line that is read, in bytes. Records are far shorter; a longer line is no record.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Intents that may be open at a time: more than an instance can have under way.
pub const OPEN_INTENTS_MAX: usize = 65_536;
/// Kinds of event that are counted by name; further ones are counted as `other`.
const KINDS_MAX: usize = 64;

/// What a verifier finds: a closed list. Names are part of the output and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Every record follows from the one before, up to a checkpoint by a trusted key.
    Good,
    /// Every record follows from the one before; no trusted checkpoint says that they are all, or whose.
    Untrusted,
    /// The last line is cut off, as a crash leaves it; what stands before it holds, and no more than that line is missing.
    Torn,
    /// A record was changed.
    Edited,
    /// Records are missing in the midst or from the beginning.
    Deleted,
    /// A record was added, or stands twice.
    Inserted,
    /// Records stand in another order.
    Reordered,
    /// A record, or the checkpoint, belongs to another log.
    Spliced,
    /// A record is dated before the one it follows, and was written so.
    TimeBack,
    /// An outcome closes an intent that is not open, and was written so.
    Unopened,
    /// More intents are open than an instance can have under way.
    Crowded,
    /// Records are missing at the end.
    Truncated,
    /// There are records behind those that were signed.
    Extended,
    /// The records follow from each other, but are others than those that were signed.
    NotAsSigned,
    /// The log was signed with two different pasts.
    Forked,
    /// The log and its checkpoint are older than a checkpoint that was seen before.
    Rewound,
    /// A log of the same store that a checkpoint names is missing from a later one, or got shorter.
    LogMissing,
    /// Records, head and tree of a store do not agree at its end, so that it cannot be opened at all.
    StoreBroken,
    /// A stored object is not what its last record says.
    RowEdited,
    /// An object that the log speaks of is not in the store.
    RowMissing,
    /// A stored object of which the log says nothing.
    RowUnrecorded,
    /// No trusted key signed the checkpoint.
    ForeignKey,
    /// A trusted key's signature on the checkpoint does not hold, because text or signature was changed; or it stands in
    /// the place of another one.
    CheckpointEdited,
    /// A checkpoint that was made is not in the store, or the anchor is gone.
    CheckpointMissing,
}

/// What was found wrong first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Line of the export, from 1; one past the end if lines are missing; 0 if it is the checkpoint.
    pub line: u64,
    /// What is wrong, in words.
    pub message: String,
}

/// What the verifier found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict.
    pub finding: Finding,
    /// Identity of the log, if a first record could be read.
    pub log: Option<String>,
    /// Records that hold.
    pub records: u64,
    /// Records by kind of event.
    pub events: BTreeMap<String, u64>,
    /// Intents whose outcome is not in the export.
    pub open_intents: Vec<u64>,
    /// What is wrong, if anything.
    pub broken: Option<Break>,
    /// Whether a trusted checkpoint was given and is that of the last record.
    pub complete: bool,
    /// Other logs of the same store that the checkpoint names: to be verified as well.
    pub others: Vec<String>,
    /// What was found of those, where a whole store was looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Report>,
}

impl Report {
    /// The same report with something found beside the records, if those hold.
    #[must_use]
    pub fn with(self, found: Option<(Finding, String)>) -> Self {
        match found {
            Some((finding, message)) if self.broken.is_none() => {
                Report { finding, broken: Some(Break { line: 0, message }), complete: false, ..self }
            }
            _ => self,
        }
    }

    /// The same report of a log whose end is signed by a trusted key, if nothing is wrong with it.
    #[must_use]
    pub fn signed(self) -> Self {
        match self.finding {
            Finding::Untrusted => Report { finding: Finding::Good, complete: true, ..self },
            _ => self,
        }
    }

    /// The same report with that of another log of the store beside it: the verdict is over both.
    #[must_use]
    pub fn beside(mut self, other: Report) -> Self {
        let log = other.log.clone().unwrap_or_default();
        if let Some(broken) = &other.broken {
            self = self.with(Some((other.finding, format!("log {log}: {}", broken.message))));
        } else if self.finding == Finding::Good && other.finding != Finding::Good {
            (self.finding, self.complete) = (other.finding, false);
        }
        self.beside.push(other);
        self
    }

    /// The same report with that of a log beside it which the verdict is not over.
    #[must_use]
    pub fn aside(mut self, other: Report) -> Self {
        self.beside.push(other);
        self
    }

    /// The same report of a log that is known by its name, whatever its records say.
    #[must_use]
    pub fn of(self, log: &str) -> Self {
        Report { log: Some(log.to_owned()), ..self }
    }

    /// The report on a checkpoint that does not hold, or a store that cannot be opened: no records are looked at.
    #[must_use]
    pub fn without_records(finding: Finding, message: String) -> Self {
        Report { finding, broken: Some(Break { line: 0, message }), ..Verifier::new(None).report }
    }
}

/// Opens a checkpoint with trusted keys, or says which finding it is that it does not open.
///
/// # Errors
/// The finding, and the fault in words: `INVALID_ARGUMENT` if the note is no checkpoint at all.
pub fn open_checkpoint(note: &Note, trust: &Trust) -> Result<Checkpoint, (Finding, Error)> {
    trust.checkpoint(note).map_err(|fault| {
        let keys: Vec<VerifierKey> = trust.keys().cloned().collect();
        (why_closed(trust.log(), note, &keys), fault)
    })
}

/// The same with keys of a log of which no more is known than that they are its keys.
///
/// # Errors
/// As [`open_checkpoint`].
pub fn open_checkpoint_of(log: &str, note: &Note, keys: &[VerifierKey]) -> Result<Checkpoint, (Finding, Error)> {
    match Checkpoint::open(note, keys) {
        Ok(checkpoint) if checkpoint.log == log => Ok(checkpoint),
        Ok(_) => Err((Finding::Spliced, Error::new(Reason::SignatureInvalid, "the checkpoint is of another log"))),
        Err(fault) => Err((why_closed(log, note, keys), fault)),
    }
}

fn why_closed(log: &str, note: &Note, keys: &[VerifierKey]) -> Finding {
    let of_this_log = note.text().parse::<Checkpoint>().is_ok_and(|checkpoint| checkpoint.log == log);
    if !of_this_log {
        Finding::Spliced
    } else if note.names_one_of(keys) && note.verify(keys).is_err() {
        Finding::CheckpointEdited
    } else {
        Finding::ForeignKey
    }
}

/// Checks a log record by record.
#[derive(Debug)]
pub struct Verifier {
    checkpoint: Option<Checkpoint>,
    seen: Vec<Checkpoint>,
    /// Where the log stands; nothing before the first record.
    at: Option<Head>,
    tree: Frontier,
    open: BTreeSet<u64>,
    others: Others,
    report: Report,
    /// The first record that does not fit, and what later ones show about it.
    doubt: Option<Doubt>,
    /// The size at which the log is another than a checkpoint that was seen.
    fork: Option<u64>,
    torn: bool,
}

impl Verifier {
    /// Begins, with the log's checkpoint if its signature was verified.
    #[must_use]
    pub fn new(checkpoint: Option<Checkpoint>) -> Self {
        let others =
            checkpoint.iter().flat_map(|checkpoint| &checkpoint.others).map(|other| other.log.clone()).collect();
        let report = Report {
            finding: Finding::Untrusted,
            log: None,
            records: 0,
            events: BTreeMap::new(),
            open_intents: Vec::new(),
            broken: None,
            complete: false,
            others,
            beside: Vec::new(),
        };
        let at = checkpoint.as_ref().map(|checkpoint| Head::empty(checkpoint.log.clone()));
        Verifier {
            checkpoint,
            seen: Vec::new(),
            at,
            tree: Frontier::default(),
            open: BTreeSet::new(),
            others: Others::default(),
            report,
            doubt: None,
            fork: None,
            torn: false,
        }
    }

    /// Holds the log against a checkpoint that was verified and that is known from elsewhere: from an earlier export, an
    /// anchor or a witness.
    #[must_use]
    pub fn seen(mut self, checkpoint: Checkpoint) -> Self {
        self.seen.push(checkpoint);
        self
    }

    /// Says which log it is, where that is known and no checkpoint says so.
    #[must_use]
    pub fn of(mut self, log: &str) -> Self {
        self.at.get_or_insert_with(|| Head::empty(log));
        self
    }

    /// Takes the next record, without its line feed.
    pub fn line(&mut self, bytes: &[u8]) {
        if let Some(doubt) = &mut self.doubt {
            doubt.hear(bytes);
            return;
        }
        let line = match Line::read(bytes).and_then(|line| line.time_us().map(|time_us| (line, time_us))) {
            Ok((line, time_us)) => {
                let at = self.at.get_or_insert_with(|| Head::empty(line.log.clone()));
                match at.check_link(&line).map_err(|fault| (Misfit::Link, fault)).and_then(|()| {
                    at.check_time(time_us).map_err(|fault| (Misfit::Sense(Finding::TimeBack), fault))?;
                    note_intent(&mut self.open, &line)
                }) {
                    Ok(()) => {
                        at.advance(bytes, time_us);
                        Ok(line)
                    }
                    Err((misfit, fault)) => Err((misfit, Some(line), fault)),
                }
            }
            Err(fault) => Err((Misfit::Link, None, fault)),
        };
        match line {
            Ok(line) => self.accept(bytes, &line),
            Err((misfit, line, fault)) => {
                let due = self.at.clone().unwrap_or_else(|| Head::empty(""));
                self.doubt = Some(Doubt::new(due, misfit, line.as_ref(), bytes, fault.message()));
            }
        }
    }

    fn accept(&mut self, bytes: &[u8], line: &Line<'_>) {
        self.tree.append(TreeHash::leaf(bytes), |_, _, _| {});
        self.others.hear(bytes);
        self.report.records += 1;
        if self.report.log.is_none() {
            self.report.log = Some(line.log.clone().into_owned());
        }
        match self.report.events.get_mut(&*line.kind) {
            Some(count) => *count += 1,
            None => {
                let kind = if self.report.events.len() < KINDS_MAX { &*line.kind } else { "other" };
                *self.report.events.entry(kind.to_owned()).or_default() += 1;
            }
        }
        let at = self.tree.size();
        let is_other = |seen: &Checkpoint| seen.size == at && !self.is_at(seen);
        if self.fork.is_none() && self.seen.iter().any(is_other) {
            self.fork = Some(at);
        }
    }

    /// Says that behind the last line feed there are bytes that are no whole line.
    pub fn torn(&mut self) {
        self.torn = true;
    }

    /// Where the records that hold so far end; nothing before the first, if it is not known which log it is.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.at.as_ref()
    }

    /// Number of records that hold so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Whether the records so far are those of a checkpoint.
    #[must_use]
    pub fn is_at(&self, checkpoint: &Checkpoint) -> bool {
        let chain = self.at.as_ref().map_or(ChainHash::ZERO, |at| at.chain);
        self.tree.size() == checkpoint.size && chain == checkpoint.chain && self.tree.root() == checkpoint.root
    }

    /// Whether all that was given so far holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.doubt.is_none()
    }

    /// The other logs of the store that the records speak of.
    #[must_use]
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// The verdict over all that was given.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let (finding, broken) = self.verdict();
        self.report.finding = finding;
        self.report.broken = broken.map(|(line, message)| Break { line, message });
        self.report.complete = finding == Finding::Good;
        self.report.open_intents = self.open.into_iter().collect();
        self.report
    }

    fn verdict(&self) -> (Finding, Option<(u64, String)>) {
        let size = self.tree.size();
        let end = size + 1;
        if let Some(doubt) = &self.doubt {
            let last = self.checkpoint.as_ref().filter(|checkpoint| checkpoint.size == end);
            let (finding, message) = doubt.resolve(last.map(|checkpoint| checkpoint.chain));
            return (finding, Some((end, message)));
        }
        let Some(checkpoint) = &self.checkpoint else {
            let longer = self.seen.iter().map(|seen| seen.size).max().filter(|longer| *longer > size);
            return match (self.fork, self.torn) {
                (None, _) if longer.is_some() => {
                    let words = format!("the log ends after {size} records; a checkpoint that was seen says more");
                    (Finding::Truncated, Some((end, words)))
                }
                (Some(at), _) => (Finding::NotAsSigned, Some((at, other_than(at)))),
                (None, true) => (Finding::Torn, None),
                (None, false) => (Finding::Untrusted, None),
            };
        };
        if size < checkpoint.size {
            if self.torn && end == checkpoint.size && self.fork.is_none() {
                return (Finding::Torn, None);
            }
            let words = format!("the log ends after {size} records; its checkpoint says {}", checkpoint.size);
            return (Finding::Truncated, Some((end, words)));
        }
        if size > checkpoint.size || self.torn {
            let words = format!("there are records behind the {} of the checkpoint", checkpoint.size);
            return (Finding::Extended, Some((checkpoint.size + 1, words)));
        }
        if !self.is_at(checkpoint) {
            return (Finding::NotAsSigned, Some((size, other_than(size))));
        }
        if let Some(words) = self.others.lost(checkpoint.others.iter().map(|other| (other.log.as_str(), other.size))) {
            return (Finding::LogMissing, Some((0, words)));
        }
        self.against_seen(checkpoint).unwrap_or((Finding::Good, None))
    }

    /// What checkpoints that were seen elsewhere say against a log that is as its own checkpoint says.
    fn against_seen(&self, own: &Checkpoint) -> Option<(Finding, Option<(u64, String)>)> {
        if let Some(seen) = self.seen.iter().find(|seen| seen.log != own.log) {
            let words = format!("the checkpoint that was seen is of log {}, this is log {}", seen.log, own.log);
            return Some((Finding::Spliced, Some((0, words))));
        }
        if let Some(at) = self.fork {
            let words = format!("two different logs were signed: they part within the first {at} records");
            return Some((Finding::Forked, Some((at, words))));
        }
        let newest = self.seen.iter().max_by_key(|seen| seen.size)?;
        if newest.size > own.size {
            let words = format!(
                "a checkpoint of {} records was seen; this log and its checkpoint have {}",
                newest.size, own.size
            );
            return Some((Finding::Rewound, Some((own.size + 1, words))));
        }
        let lost = self.seen.iter().flat_map(|seen| &seen.others).find(|before| {
            let now = own.others.iter().find(|now| now.log == before.log);
            now.is_none_or(|now| now.size < before.size || now.size == before.size && now.chain != before.chain)
        })?;
        let words =
            format!("log {} had {} records when it was seen; the checkpoint does not continue it", lost.log, lost.size);
        Some((Finding::LogMissing, Some((0, words))))
    }
}

/// Keeps count of the intents without an outcome.
fn note_intent(open: &mut BTreeSet<u64>, line: &Line<'_>) -> Result<(), (Misfit, Error)> {
    let broken = |finding, words: String| Err((Misfit::Sense(finding), Error::new(Reason::RecordBroken, words)));
    match (&*line.kind, line.intent) {
        ("intent", _) if open.len() >= OPEN_INTENTS_MAX => {
            broken(Finding::Crowded, format!("opens an intent while {OPEN_INTENTS_MAX} are open"))
        }
        ("intent", _) => {
            open.insert(line.seq);
            Ok(())
        }
        ("outcome", Some(intent)) if open.remove(&intent) => Ok(()),
        ("outcome", Some(intent)) => broken(Finding::Unopened, format!("closes intent {intent}, which is not open")),
        ("outcome", None) => broken(Finding::Unopened, "closes no intent".to_owned()),
        _ => Ok(()),
    }
}

fn other_than(size: u64) -> String {
    format!("the first {size} records are others than those that were signed")
}

/// Reads an export and checks it.
///
/// # Errors
/// Only those of reading; what is wrong with the log stands in the report.
pub fn export(mut lines: impl BufRead, mut verifier: Verifier) -> std::io::Result<Report> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(bytes) => verifier.line(bytes),
            None if read == 0 => return Ok(verifier.finish()),
            // Too long for a record, and no record.
            None if read > LINE_BYTES_MAX => verifier.line(&line),
            None => verifier.torn(),
        }
    }
}
