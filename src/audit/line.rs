//! A record as the chain sees it: what every record has, whatever its event says.

use std::borrow::Cow;

use crate::audit::chain::ChainHash;
use crate::audit::form;
use crate::audit::record::{FORMAT, read_time};
use crate::error::{Error, Reason, Result};

/// A record's frame. Events of kinds that this version does not know are frames like others, so that an old verifier
/// checks a new log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Identity of the log.
    pub log: Cow<'a, str>,
    /// Place in the log.
    pub seq: u64,
    /// SHA-256 of the record before.
    pub prev: ChainHash,
    /// When it was written, as text.
    pub time: &'a str,
    /// The event's kind.
    pub kind: Cow<'a, str>,
    /// The intent that an outcome closes.
    pub intent: Option<u64>,
}

impl<'a> Line<'a> {
    /// Reads stored bytes. They must be canonical (RFC 8785), which gives every member its place: one pass over them does.
    ///
    /// # Errors
    /// `RECORD_BROKEN` for anything else.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        std::str::from_utf8(bytes).ok().and_then(Line::of).ok_or_else(|| {
            Error::new(Reason::RecordBroken, format!("is no record of format {FORMAT} in its canonical form"))
        })
    }

    fn of(text: &'a str) -> Option<Self> {
        let (mut kind, mut intent) = (None, None);
        let event = text.strip_prefix("{\"event\":{")?;
        let rest = form::object(event, 2, |name, value| match name {
            "type" => kind = Some(value),
            "intent" => intent = Some(value),
            _ => {}
        })?;
        let (log, rest) = member(rest, ",\"log\":")?;
        let (prev, rest) = member(rest, ",\"prev\":")?;
        let (seq, rest) = member(rest, ",\"seq\":")?;
        let (time, rest) = member(rest, ",\"time\":")?;
        let (v, rest) = member(rest, ",\"v\":")?;
        let line = Line {
            log: string(log)?,
            seq: seq.parse().ok()?,
            prev: plain(prev)?.parse().ok()?,
            time: plain(time)?,
            kind: string(kind?)?,
            intent: intent.map(str::parse).transpose().ok()?,
        };
        (v.parse() == Ok(FORMAT) && rest == "}").then_some(line)
    }

    /// When it was written, in microseconds since 1970.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if that is no time in the form of records.
    pub fn time_us(&self) -> Result<i64> {
        read_time(self.time)
    }
}

/// The value of the member of the record that is due, and what stands behind it.
fn member<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let value = text.strip_prefix(name)?;
    let rest = form::value(value, 1)?;
    Some((&value[..value.len() - rest.len()], rest))
}

/// The string that a value is.
fn string(value: &str) -> Option<Cow<'_, str>> {
    plain(value).map(Cow::Borrowed).or_else(|| serde_json::from_str(value).ok().map(Cow::Owned))
}

/// The string that a value is, if it needs no escapes.
fn plain(value: &str) -> Option<&str> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::audit::record::{Event, OutcomeNote, Record, time_text};

    /// The same by the book: a JSON library reads the members. What the canonical form is has its own tests.
    fn by_the_book(bytes: &[u8]) -> Option<(String, u64, String, String, String, Option<u64>)> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Frame {
            v: u32,
            log: String,
            seq: u64,
            prev: String,
            time: String,
            event: Said,
        }
        #[derive(Deserialize)]
        struct Said {
            r#type: String,
            intent: Option<u64>,
        }
        let is_canonical = form::value(std::str::from_utf8(bytes).ok()?, 0) == Some("");
        let Frame { v, log, seq, prev, time, event } = serde_json::from_slice(bytes).ok()?;
        let is_ours = v == FORMAT && prev.parse::<ChainHash>().is_ok();
        // No time is written with escapes.
        let is_plain = !time.contains(['"', '\\']) && !time.contains(char::is_control);
        (is_canonical && is_ours && is_plain).then_some((log, seq, prev, time, event.r#type, event.intent))
    }

    fn read(bytes: &[u8]) -> Option<(String, u64, String, String, String, Option<u64>)> {
        let Line { log, seq, prev, time, kind, intent } = Line::read(bytes).ok()?;
        Some((log.into(), seq, prev.to_string(), time.into(), kind.into(), intent))
    }

    fn records() -> Vec<Vec<u8>> {
        let result = OutcomeNote::Done { result: "a \"b\" \n \u{e9}".into() };
        let events = [Event::Outcome { intent: 7, result }, Event::LogClosed {}];
        let record = |event| Record {
            v: FORMAT,
            log: "l\u{e9} \"\n".into(),
            seq: 31,
            prev: ChainHash::of(b""),
            time: time_text(1),
            event,
        };
        events.map(|event| record(event).bytes().unwrap()).to_vec()
    }

    #[test]
    fn every_byte_of_a_record_put_in_taken_out_or_changed_is_judged_as_by_the_book() {
        for record in records() {
            assert!(read(&record).is_some());
            assert_eq!(read(&record), by_the_book(&record));
            for at in 0..record.len() {
                let mut changed = vec![[&record[..at], &record[at + 1..]].concat()];
                for byte in b' '..=b'~' {
                    changed.push([&record[..at], &[byte], &record[at..]].concat());
                    changed.push([&record[..at], &[byte], &record[at + 1..]].concat());
                }
                for changed in changed {
                    assert_eq!(read(&changed), by_the_book(&changed), "{}", String::from_utf8_lossy(&changed));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn members_that_are_missing_added_or_of_another_type_are_judged_as_by_the_book(
            members in prop::collection::btree_map(
                prop::sample::select(vec!["event", "log", "prev", "seq", "time", "v", "w", "a"]),
                prop::sample::select(vec![
                    r#"{"type":"t"}"#, r#"{"intent":1,"type":"t"}"#, r#"{"intent":"1","type":"t"}"#, r#"{"intent":1}"#,
                    r#"{"type":{"type":"t"}}"#, r#"{"a":{"type":"t"}}"#, r#"{"a":[{"intent":2}],"type":"t"}"#,
                    "1", "\"l\"", "[]", "true",
                ]),
                0..8,
            ),
            zeros in any::<prop::sample::Index>(),
        ) {
            let mut members = members;
            for (name, value) in [("event", r#"{"type":"t"}"#), ("log", "\"l\""), ("seq", "1"), ("time", "\"t\""), ("v", "1")] {
                members.entry(name).or_insert(value);
            }
            let zeros_text = format!("\"{}\"", "0".repeat(64));
            if zeros.index(4) > 0 {
                members.insert("prev", &zeros_text);
            }
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let record = format!("{{{}}}", members.join(","));
            prop_assert_eq!(read(record.as_bytes()), by_the_book(record.as_bytes()), "{}", record);
        }
    }
}
