//! What the log says of an object, and whether its row says the same.

use aws_lc_rs::digest;
use serde_json::Value;

use crate::audit::merkle::TreeHash;
use crate::audit::record::{Event, OutcomeNote, Record};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, KeyState, Mode, PublicKey};
use crate::store::{Kind, Object};

/// Records after a change among which the outcome stands that it came of: they were committed together.
pub(super) const BATCH_RECORDS_MAX: u32 = 32;

/// The records of an object's changes: all those whose bytes lie between the two. Canonical JSON puts the event first,
/// and in it the name, the kind and the hash.
pub(super) fn records_of(kind: Kind, name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let name = serde_json_canonicalizer::to_string(&name)
        .map_err(|fault| Error::new(Reason::Internal, "a name cannot be written as JSON").detail(fault))?;
    let begin =
        |quote: char| format!("{{\"event\":{{\"name\":{name},\"object\":\"{}\",\"sha256\":{quote}", kind.name());
    Ok((begin('"').into_bytes(), begin('#').into_bytes()))
}

/// Two bounds between which all records lie that are of changes of objects whose names begin with `prefix` and come after
/// `after`. Others may lie there too.
pub(super) fn records_beyond(prefix: &str, after: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let begin = |name: &str| -> Result<Vec<u8>> {
        let mut begin = records_of(Kind::Key, name)?.0;
        begin.truncate(begin.len() - br#"","object":"key","sha256":""#.len());
        Ok(begin)
    };
    // Up to the first character that JSON writes with another, names and records are in the same order.
    let plain = after.split(|c: char| c == '"' || c == '\\' || c.is_control()).next().unwrap_or_default();
    let mut end = begin(prefix)?;
    // No character of UTF-8 begins with this byte, or a greater one.
    end.push(0xff);
    Ok((begin(prefix)?.max(begin(plain)?), end))
}

/// What the log says of an object's last change.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) log: String,
    pub(super) seq: u64,
    /// The record's hash in the tree of its log.
    pub(super) leaf: TreeHash,
    version: u64,
    pub(super) sha256: String,
}

impl Last {
    /// Reads the last record of a change.
    pub(super) fn read(record: &[u8]) -> Result<Self> {
        let leaf = TreeHash::leaf(record);
        let record = Record::read(record)?;
        match record.event {
            Event::Changed { version, sha256, .. } => {
                Ok(Last { log: record.log, seq: record.seq, leaf, version, sha256 })
            }
            _ => Err(Error::new(Reason::RecordBroken, format!("record {} is of no change", record.seq))),
        }
    }

    pub(super) fn place(&self) -> String {
        format!("record {} of log {}", self.seq, self.log)
    }
}

/// Whether no record tells of a row, or only of a version before it.
pub(super) fn is_unrecorded(row: &Object, last: Option<&Last>) -> bool {
    last.is_none_or(|last| last.version < row.version)
}

/// Holds a row against the last record of its change. `Err(None)`: its content is not what was recorded.
pub(super) fn check(name: &str, row: Option<&Object>, last: Option<&Last>) -> Result<(), Option<Error>> {
    let (row, last) = match (row, last) {
        (None, None) => return Ok(()),
        (Some(_), None) => {
            return Err(Some(altered(format!("{name} is in the store, and no record says how it came there"))));
        }
        (None, Some(last)) => {
            let words =
                format!("{name} was removed from the store; {} has version {} of it", last.place(), last.version);
            return Err(Some(altered(words)));
        }
        (Some(row), Some(last)) => (row, last),
    };
    if row.version == last.version {
        return if sha256(&row.body) == last.sha256 { Ok(()) } else { Err(None) };
    }
    let was = if row.version < last.version { "was put back to" } else { "is said to be" };
    let words = format!("{name} {was} version {}; {} has version {}", row.version, last.place(), last.version);
    Err(Some(altered(words)))
}

/// The failure of a row whose content is not what was recorded, with what was edited in it if that can be found out.
/// `beside` are the records after that of the change.
pub(super) fn edited(row: &Object, last: &Last, beside: &[Vec<u8>]) -> Error {
    let what = edited_word(row, last).or_else(|| edited_key(row, beside));
    let what = what.unwrap_or_else(|| "its content is another".to_owned());
    altered(format!("{} was edited in the store: {what}; {} has the hash of what it was", row.name, last.place()))
}

pub(super) fn altered(words: String) -> Error {
    Error::new(Reason::ObjectAltered, words).hint(
        "it is not used like this: find out who wrote to the database, and bring the row back as it was, from a backup",
    )
}

/// Looks for the one field of few possible values with which the row would be what was recorded.
fn edited_word(row: &Object, last: &Last) -> Option<String> {
    use KeyRole::{Audit, Ca, EnrollmentCa, EnrollmentService, Probe, Root, Slc, TlsCa};
    use KeyState::{Active, Archived, Disabled, Missing, Pending};
    let states = [Pending, Active, Archived, Disabled, Missing].map(KeyState::name);
    let roles = [Slc, Root, Ca, EnrollmentCa, EnrollmentService, Audit, TlsCa, Probe].map(KeyRole::name);
    let modes = [Mode::One, Mode::Two].map(Mode::name);
    let words: Vec<Value> = [&states[..], &roles[..], &modes[..], &["node", "operator", "officer", "auditor"]]
        .concat()
        .into_iter()
        .map(Value::from)
        .chain([Value::from(true), Value::from(false)])
        .collect();
    let body: serde_json::Map<String, Value> = serde_json::from_slice(&row.body).ok()?;
    for (field, now) in &body {
        for was in words.iter().filter(|was| *was != now) {
            let mut body = body.clone();
            body.insert(field.clone(), was.clone());
            if serde_json_canonicalizer::to_vec(&body).is_ok_and(|body| sha256(&body) == last.sha256) {
                return Some(format!("its {field} is {now}, and {was} was recorded"));
            }
        }
    }
    None
}

/// Whether the public key is another than the one that the outcome beside the change speaks of.
fn edited_key(row: &Object, beside: &[Vec<u8>]) -> Option<String> {
    let body: Value = serde_json::from_slice(&row.body).ok()?;
    let public: PublicKey = serde_json::from_value(body.get("public")?.clone()).ok()?;
    let made = beside.iter().find_map(|record| match Record::read(record).ok()?.event {
        Event::Outcome { result: OutcomeNote::Done { result }, .. } => Some(result),
        _ => None,
    })?;
    let differs = made != format!("sha256:{}", sha256(&public.spki_der()));
    differs.then(|| "its public key is not the one that the token made".to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::Head;
    use crate::audit::record::Moment;
    use crate::store::Write;

    #[test]
    fn the_records_of_an_object_are_those_between_its_bounds_and_no_others() {
        let record = |kind: Kind, name: &str| {
            let event =
                Event::Changed { object: kind.name().into(), name: name.into(), version: 1, sha256: "0".repeat(64) };
            Head::empty("log").append(&event.bytes().unwrap(), &Moment::of(0)).unwrap().bytes
        };
        let names = ["a", "b", "a\"", "a\",\"object", "ä\u{1}", ""];
        for name in names {
            let (from, to) = records_of(Kind::Key, name).unwrap();
            let within = |record: &[u8]| *from <= *record && *record < *to;
            assert!(within(&record(Kind::Key, name)), "{name:?}");
            assert!(!within(&record(Kind::Cluster, name)), "{name:?}");
            for other in names.into_iter().filter(|other| *other != name) {
                assert!(!within(&record(Kind::Key, other)), "{name:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_records_of_names_are_between_their_bounds() {
        let names = ["a", "a\"", "a\"b", "a#", "a\\", "a\u{1}", "a/b", "aä", "b", "", " "];
        for prefix in ["", "a", "a\"", "a/"] {
            for after in names {
                let (from, to) = records_beyond(prefix, after).unwrap();
                for name in names.into_iter().filter(|name| name.starts_with(prefix) && *name > after) {
                    let (record, _) = records_of(Kind::Cluster, name).unwrap();
                    assert!(from <= record && record < to, "{prefix:?} {after:?} {name:?}");
                }
            }
        }
        let (from, to) = records_beyond("b/", "").unwrap();
        let other = |name| records_of(Kind::Cluster, name).unwrap().0;
        assert!(other("a") < from && other("b") < from && other("c") >= to, "and no more than it must be");
    }

    #[test]
    fn a_row_is_told_apart_by_what_was_done_to_it() {
        let object = |version, value: &Value| {
            let write = Write::new(Kind::Key, "k", 0, value).unwrap();
            Object { name: "k".into(), version, body: write.body }
        };
        let was = object(2, &serde_json::json!({ "state": "disabled", "id": "1" }));
        let last = Last { log: "l".into(), seq: 7, leaf: TreeHash::empty(), version: 2, sha256: sha256(&was.body) };
        assert!(check("k", Some(&was), Some(&last)).is_ok());
        let said = |row: Option<&Object>, last| check("k", row, last).unwrap_err().unwrap().to_string();
        assert!(said(Some(&was), None).contains("no record says how"));
        assert!(said(None, Some(&last)).contains("was removed"));
        assert!(said(Some(&object(1, &Value::Null)), Some(&last)).contains("was put back to version 1"));
        assert!(said(Some(&object(3, &Value::Null)), Some(&last)).contains("is said to be version 3"));
        let now = object(2, &serde_json::json!({ "state": "active", "id": "1" }));
        assert!(check("k", Some(&now), Some(&last)).unwrap_err().is_none());
        let words = edited(&now, &last, &[]).to_string();
        assert!(words.contains("its state is \"active\", and \"disabled\" was recorded"), "{words}");
        let now = object(2, &serde_json::json!({ "state": "disabled", "id": "2" }));
        assert!(edited(&now, &last, &[]).to_string().contains("its content is another"));
    }
}
