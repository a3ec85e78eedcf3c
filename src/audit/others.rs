//! Other logs of the same store, as the records of a log tell of them: one that is gone shows.

use std::collections::BTreeMap;

use crate::audit::record::{Event, Record};

/// How the records that matter here begin: canonical JSON puts the event first, and its members in order.
const TOLD: &[u8] = b"{\"event\":{\"log\":\"";
const GIVEN_UP: &[u8] = b"{\"event\":{\"agreed\":\"";
/// Logs that are kept count of; of more, nothing is known.
const LOGS_MAX: usize = 4096;

/// Records that each other log must have, by its id: the place of the last one that was told of, and its SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others(BTreeMap<String, (u64, String)>);

impl Others {
    /// Takes notice of the next record of the log.
    pub fn hear(&mut self, record: &[u8]) {
        if !record.starts_with(TOLD) && !record.starts_with(GIVEN_UP) {
            return;
        }
        match Record::stored(record).map(|record| record.event) {
            Ok(Event::OtherLog { log, seq, sha256, .. }) if self.0.len() < LOGS_MAX || self.0.contains_key(&log) => {
                let last = self.0.entry(log).or_default();
                if last.1.is_empty() || last.0 < seq {
                    *last = (seq, sha256);
                }
            }
            // A person has decided to go on without what is not there.
            Ok(Event::ReAnchored { .. }) => self.0.clear(),
            _ => {}
        }
    }

    /// The last record that was told of in each log: its place, and its SHA-256 in hexadecimal.
    pub fn last(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.0.iter().map(|(log, (seq, sha256))| (log.as_str(), *seq, sha256.as_str()))
    }

    /// Which log is not among these, each with its number of records, or ends too early; in words.
    pub fn lost<'a>(&self, there: impl Iterator<Item = (&'a str, u64)>) -> Option<String> {
        let there: BTreeMap<&str, u64> = there.collect();
        let (log, (seq, _)) =
            self.0.iter().find(|(log, (seq, _))| there.get(log.as_str()).is_none_or(|size| size <= seq))?;
        Some(match there.get(log.as_str()) {
            None => format!("log {log} is missing, whose record {seq} this log tells of"),
            Some(size) => format!("log {log} has {size} records, and this log tells of its record {seq}"),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::chain::Head;
    use crate::audit::record::Moment;
    use crate::caller::CallerNote;

    fn record(event: &Event) -> Vec<u8> {
        Head::empty("own").append(&event.bytes().unwrap(), &Moment::of(0)).unwrap().bytes
    }

    fn told(log: &str, seq: u64) -> Vec<u8> {
        record(&Event::OtherLog { log: log.into(), state: "opened".into(), seq, sha256: "0".repeat(64) })
    }

    #[test]
    fn a_log_that_was_told_of_must_be_there_as_long_as_it_was_until_a_person_gives_it_up() {
        let mut others = Others::default();
        for record in [told("a", 0), told("b", 7), told("a", 5), record(&Event::LogClosed {})] {
            others.hear(&record);
        }
        let lost = |there: &[(&str, u64)]| others.lost(there.iter().copied());
        assert_eq!(lost(&[("a", 6), ("b", 8), ("c", 0)]), None);
        assert!(lost(&[("a", 6)]).unwrap().starts_with("log b is missing"));
        assert!(lost(&[("a", 5), ("b", 8)]).unwrap().starts_with("log a has 5 records"));
        let text = String::new;
        others.hear(&record(&Event::ReAnchored {
            caller: CallerNote::service(),
            rule: text(),
            agreed: text(),
            reason: text(),
            message: text(),
            anchor: text(),
            checkpoints: None,
        }));
        assert_eq!(others.lost([].into_iter()), None);
    }

    #[test]
    fn logs_beyond_the_bound_take_no_memory() {
        let mut others = Others::default();
        (0..LOGS_MAX + 100).for_each(|n| others.hear(&told(&n.to_string(), 1)));
        others.hear(&told("0", 9));
        assert_eq!((others.0.len(), others.0["0"].0), (LOGS_MAX, 9));
    }
}
