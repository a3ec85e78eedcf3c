//! What the records say of objects, in bounded memory however many there are: of one stretch of their names at a time.

use std::collections::BTreeMap;

use crate::audit::chain::Head;
use crate::audit::record::{Event, Record};
use crate::audit::verify::Finding;
use crate::error::Result;
use crate::store::signed::Wrong;
use crate::store::{Kind, Store};

/// Objects that are kept in mind at a time.
const OBJECTS_MAX: usize = 32_768;
/// Records that are read at a time.
const PAGE: u32 = 1000;

/// Kind and name of an object, in the order in which the store has them.
type Key = (String, String);

/// A version of an object that a log tells of.
pub(super) struct Said {
    pub(super) version: u64,
    /// Of its body, in hexadecimal.
    pub(super) sha256: String,
    log: String,
}

/// The last version of each object that some log tells of, of those of one stretch of names.
pub(super) struct Recorded {
    /// The stretch begins behind this one, and ends with that one, if it ends before the last.
    after: Key,
    to: Option<Key>,
    last: BTreeMap<Key, Said>,
    max: usize,
}

impl Default for Recorded {
    fn default() -> Self {
        Recorded { after: Key::default(), to: None, last: BTreeMap::new(), max: OBJECTS_MAX }
    }
}

impl Recorded {
    /// Takes notice of what the next record of a log tells of. If there are too many objects, the last ones are left to the
    /// next stretch.
    pub(super) fn hear(&mut self, log: &str, event: Event) {
        let Event::Changed { object, name, version, sha256 } = event else { return };
        let key = (object, name);
        if key <= self.after || self.to.as_ref().is_some_and(|to| key > *to) {
            return;
        }
        match self.last.get_mut(&key) {
            Some(last) if last.version >= version && last.log != log => {}
            Some(last) => *last = Said { version, sha256, log: log.to_owned() },
            None => drop(self.last.insert(key, Said { version, sha256, log: log.to_owned() })),
        }
        if self.last.len() > self.max {
            self.last.pop_last();
            self.to = self.last.last_key_value().map(|(key, _)| key.clone());
        }
    }

    /// What is said of an object.
    pub(super) fn take(&mut self, kind: Kind, name: &str) -> Option<Said> {
        self.last.remove(&(kind.name().to_owned(), name.to_owned()))
    }

    /// The name behind which the stretch begins among those of a kind; nothing if it begins behind all of them.
    pub(super) fn begin(&self, kind: Kind) -> Option<&str> {
        match kind.name().cmp(&self.after.0) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(&self.after.1),
            std::cmp::Ordering::Greater => Some(""),
        }
    }

    /// Whether the stretch ends before an object.
    pub(super) fn ends_before(&self, kind: Kind, name: &str) -> bool {
        self.to.as_ref().is_some_and(|(last, to)| (kind.name(), name) > (last, to))
    }

    /// The first object that something is said of, of those that were not taken.
    pub(super) fn left(&self) -> Option<(&str, &str)> {
        self.last.first_key_value().map(|((kind, name), _)| (kind.as_str(), name.as_str()))
    }

    /// Goes on to the next stretch, of which nothing is known yet; false if this was the last.
    pub(super) fn go_on(&mut self) -> bool {
        let Some(to) = self.to.take() else { return false };
        self.after = to;
        self.last.clear();
        true
    }
}

/// Follows the records of a log from one end of it to a later one, and shows what each tells of. What is wrong with one comes
/// as a value.
///
/// # Errors
/// Those of reading.
pub(super) async fn follow(
    store: &dyn Store,
    end: &mut Head,
    size: u64,
    mut heard: impl FnMut(&str, Event),
) -> Result<Option<Wrong>> {
    while end.size < size {
        let page = store.entries(&end.log, end.size, PAGE).await?;
        if page.is_empty() {
            return Ok(Some((Finding::Deleted, format!("record {} of log {} is missing", end.size, end.log))));
        }
        for bytes in page {
            if end.size == size {
                break;
            }
            let seq = end.size;
            if let Err(fault) = end.follow(&bytes) {
                return Ok(Some((Finding::Edited, format!("record {seq} of log {} {}", end.log, fault.message()))));
            }
            if let Ok(record) = Record::stored(&bytes) {
                heard(&end.log, record.event);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(object: &str, name: &str, version: u64) -> Event {
        Event::Changed { object: object.into(), name: name.into(), version, sha256: version.to_string() }
    }

    #[test]
    fn all_objects_are_told_of_in_stretches_of_so_many_each_with_its_last_version() {
        let kinds = ["key", "log-beside", "cluster"];
        let events =
            || (0..100_u64).map(|n| changed(kinds[usize::try_from(n % 3).unwrap()], &format!("{}", n * 37 % 50), n));
        let mut expected = BTreeMap::new();
        for event in events() {
            let Event::Changed { object, name, version, .. } = event else { continue };
            expected.insert((object, name), version);
        }
        for max in 1..150 {
            let mut recorded = Recorded { max, ..Recorded::default() };
            let mut told = Vec::new();
            loop {
                events().for_each(|event| recorded.hear("log", event));
                assert!(recorded.last.len() <= max);
                told.extend(recorded.last.iter().map(|(key, said)| (key.clone(), said.version)));
                if !recorded.go_on() {
                    break;
                }
            }
            assert!(told.iter().cloned().eq(expected.clone()), "{max}: {told:?}");
        }
    }

    #[test]
    fn the_last_word_of_the_same_log_counts_and_of_others_the_greatest_version() {
        let mut recorded = Recorded::default();
        for (log, version) in [("a", 5), ("b", 4), ("a", 3), ("b", 4)] {
            recorded.hear(log, changed("key", "k", version));
        }
        assert_eq!(recorded.take(Kind::Key, "k").map(|said| said.version), Some(4));
        assert!(recorded.left().is_none());
    }
}
