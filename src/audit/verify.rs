//! The offline verifier of an exported log: line by line, in constant memory.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Serialize;

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::{Event, Record};
use crate::error::{Error, Reason};

/// Longest line that is read, in bytes. Records are far shorter; a longer line is no record.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

/// What was found wrong first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Line of the export, from 1; one past the end if lines are missing.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// What the verifier found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Identity of the log, if a first record could be read.
    pub log: Option<String>,
    /// Records that hold.
    pub records: u64,
    /// Records by type of event.
    pub events: BTreeMap<String, u64>,
    /// Intents whose outcome is not in the export.
    pub open_intents: Vec<u64>,
    /// What is wrong, if anything.
    pub broken: Option<Break>,
    /// Whether a trusted checkpoint was given and is that of the last record.
    pub complete: bool,
}

/// Reads an export and checks every line against the one before, and the whole against a checkpoint whose signature
/// was verified.
///
/// # Errors
/// Only those of reading; what is wrong with the log stands in the report.
pub fn export(mut lines: impl BufRead, checkpoint: Option<&Checkpoint>) -> std::io::Result<Report> {
    let mut report = Report {
        log: None,
        records: 0,
        events: BTreeMap::new(),
        open_intents: Vec::new(),
        broken: None,
        complete: false,
    };
    let mut at: Option<Head> = checkpoint.map(|checkpoint| Head::empty(checkpoint.log.clone()));
    let mut tree = Frontier::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if let Err(fault) = check(&mut report, &mut at, &mut tree, &line) {
            report.broken = Some(Break { line: report.records + 1, message: fault.message().to_owned() });
            return Ok(report);
        }
    }
    if let (Some(checkpoint), Some(at)) = (checkpoint, &at) {
        if at.size < checkpoint.size {
            let words = format!("the log ends after {} records; its checkpoint says {}", at.size, checkpoint.size);
            report.broken = Some(Break { line: report.records + 1, message: words });
        } else if at.size > checkpoint.size {
            let words = format!("there are records behind the {} of the checkpoint", checkpoint.size);
            report.broken = Some(Break { line: checkpoint.size + 1, message: words });
        } else if at.chain != checkpoint.chain || tree.root() != checkpoint.root {
            let message = "the records are others than those the checkpoint was signed over".to_owned();
            report.broken = Some(Break { line: report.records, message });
        } else {
            report.complete = true;
        }
    }
    Ok(report)
}

fn check(report: &mut Report, at: &mut Option<Head>, tree: &mut Frontier, line: &[u8]) -> Result<(), Error> {
    let Some(bytes) = line.strip_suffix(b"\n") else {
        let words = if line.len() > LINE_BYTES_MAX { "is longer than any record" } else { "is cut off" };
        return Err(Error::new(Reason::RecordBroken, words));
    };
    let at = match at {
        Some(at) => at,
        None => at.insert(Head::empty(Record::read(bytes)?.log)),
    };
    let record = at.follow(bytes)?;
    tree.append(TreeHash::leaf(bytes), |_, _, _| {});
    report.log.get_or_insert_with(|| record.log.clone());
    match &record.event {
        Event::Intent { .. } => report.open_intents.push(record.seq),
        Event::Outcome { intent, .. } => match report.open_intents.iter().position(|open| open == intent) {
            Some(place) => {
                report.open_intents.swap_remove(place);
            }
            None => {
                return Err(Error::new(Reason::RecordBroken, format!("closes intent {intent}, which is not open")));
            }
        },
        _ => {}
    }
    *report.events.entry(event_type(&record.event).to_owned()).or_default() += 1;
    report.records += 1;
    Ok(())
}

/// The name of an event's type, as it stands in the record.
#[must_use]
pub fn event_type(event: &Event) -> &'static str {
    match event {
        Event::LogOpened { .. } => "log-opened",
        Event::LogClosed {} => "log-closed",
        Event::Intent { .. } => "intent",
        Event::Outcome { .. } => "outcome",
        Event::Refusal { .. } => "refusal",
        Event::Enrollment { .. } => "enrollment",
        Event::Performed { .. } => "performed",
        Event::Changed { .. } => "changed",
        Event::ReAnchored { .. } => "re-anchored",
        Event::TokenState { .. } => "token-state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Moment;

    fn log(events: usize) -> (Vec<Vec<u8>>, Checkpoint) {
        let mut head = Head::empty("a-log");
        let mut tree = Frontier::default();
        let lines = (0..events)
            .map(|n| {
                let event = if n == 0 {
                    Event::LogOpened { version: "1".into(), tokens: vec![] }
                } else {
                    Event::Changed { object: "key".into(), name: format!("k{n}"), version: 1, sha256: "00".into() }
                };
                let moment = Moment::of(1_000_000 * i64::try_from(n).unwrap());
                let mut line = head.append(&event.bytes().unwrap(), &moment).unwrap().bytes;
                tree.append(TreeHash::leaf(&line), |_, _, _| {});
                line.push(b'\n');
                line
            })
            .collect();
        let (size, chain) = (head.size, head.chain);
        (lines, Checkpoint { log: head.log, size, root: tree.root(), chain, others: Vec::new() })
    }

    fn verdict(lines: &[Vec<u8>], checkpoint: Option<&Checkpoint>) -> Report {
        export(lines.concat().as_slice(), checkpoint).unwrap()
    }

    #[test]
    fn an_untouched_export_holds() {
        let (lines, head) = log(5);
        let report = verdict(&lines, Some(&head));
        assert_eq!((report.broken, report.complete, report.records), (None, true, 5));
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let (lines, head) = log(4);
        for line in 0..lines.len() {
            for byte in 0..lines[line].len() {
                let mut changed = lines.clone();
                changed[line][byte] ^= 0x01;
                assert!(verdict(&changed, Some(&head)).broken.is_some(), "line {line} byte {byte}");
            }
        }
    }

    #[test]
    fn deleted_reordered_and_cut_lines_are_found() {
        let (lines, head) = log(5);
        for gone in 0..5 {
            let mut changed = lines.clone();
            changed.remove(gone);
            assert!(verdict(&changed, Some(&head)).broken.is_some(), "line {gone} removed");
        }
        let mut swapped = lines.clone();
        swapped.swap(2, 3);
        assert_eq!(verdict(&swapped, Some(&head)).broken.unwrap().line, 3);
        let cut = verdict(&lines[..4], Some(&head)).broken.unwrap();
        assert!(cut.message.contains("ends after 4 records"), "{}", cut.message);
        let earlier = log(4).1;
        assert_eq!(verdict(&lines, Some(&earlier)).broken.unwrap().line, 5, "records behind the checkpoint");
    }

    #[test]
    fn an_export_without_its_checkpoint_is_never_called_complete() {
        let (lines, _) = log(3);
        let report = verdict(&lines, None);
        assert_eq!((report.broken, report.complete), (None, false));
    }
}
