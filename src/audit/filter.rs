//! Which records are wanted: a filter in a part of the language of AIP-160.
//!
//! ```text
//! kind = "intent" AND key = "clusters/emea/keys/slc-1" AND time >= "2026-11-01T00:00:00Z"
//! ```
//! Terms joined with `AND`, each a field, an operator and a value in quotes (numbers may go without):
//!
//! | field | operators | what it is held against |
//! |---|---|---|
//! | `seq` | `>=` `<` | place in the log |
//! | `time` | `>=` `<` | when it was written: RFC 3339 |
//! | `kind` | `=` | kind of event |
//! | `caller` | `=` | name, address or certificate's SHA-256 of who asked |
//! | `key` | `=` | resource name of the key |
//! | `guid` | `=` | GUID of the document or server; case and braces do not count |
//! | `outcome` | `=` | `done`, `refused`, `unknown` |
//!
//! An outcome is taken to have the caller, key and GUID of its intent.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::audit::record::{Event, time_text};
use crate::error::{Error, Reason, Result};

/// Longest filter that is read, in bytes.
pub const FILTER_BYTES_MAX: usize = 2048;

/// What a record must be. The default is met by every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The first place.
    pub from_seq: Option<u64>,
    /// The place behind the last.
    pub until_seq: Option<u64>,
    /// The earliest time: microseconds since 1970.
    pub from_us: Option<i64>,
    /// The time behind the latest.
    pub until_us: Option<i64>,
    /// Kind of event.
    pub kind: Option<String>,
    /// Who asked.
    pub caller: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The document or server.
    pub guid: Option<String>,
    /// What became of it.
    pub outcome: Option<String>,
}

impl Filter {
    /// Whether an outcome's intent must be known to say whether the outcome matches.
    #[must_use]
    pub fn asks_of_intents(&self) -> bool {
        self.caller.is_some() || self.key.is_some() || self.guid.is_some()
    }

    /// Whether a record is wanted, its place and time apart: those bound where to look. `intent` is the intent's event if
    /// the record is an outcome.
    #[must_use]
    pub fn matches(&self, event: &Event, intent: Option<&Event>) -> bool {
        let about = intent.unwrap_or(event);
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let by = |wanted: &str| {
            about.caller().is_some_and(|caller| {
                caller.name == wanted
                    || caller.address.as_deref() == Some(wanted)
                    || caller.certificate_sha256.as_deref() == Some(wanted)
            })
        };
        let names = |wanted: &str| about.guid().is_some_and(|guid| bare(guid).eq_ignore_ascii_case(bare(wanted)));
        is(&self.kind, Some(event.kind()))
            && is(&self.outcome, event.outcome())
            && is(&self.key, about.key())
            && self.caller.as_deref().is_none_or(by)
            && self.guid.as_deref().is_none_or(names)
    }

    fn take(&mut self, field: &str, operator: &str, value: String) -> Result<()> {
        let place = |value: &str| value.parse().map_err(|_| malformed(format!("{value} is no place in a log")));
        let taken = match (field, operator) {
            ("seq", ">=") => self.from_seq.replace(place(&value)?).is_some(),
            ("seq", "<") => self.until_seq.replace(place(&value)?).is_some(),
            ("time", ">=") => self.from_us.replace(read_time(&value)?).is_some(),
            ("time", "<") => self.until_us.replace(read_time(&value)?).is_some(),
            ("kind", "=") => self.kind.replace(value).is_some(),
            ("caller", "=") => self.caller.replace(value).is_some(),
            ("key", "=") => self.key.replace(value).is_some(),
            ("guid", "=") => self.guid.replace(value).is_some(),
            ("outcome", "=") => self.outcome.replace(value).is_some(),
            _ => return Err(malformed(format!("{field} {operator} is nothing that records are chosen by"))),
        };
        if taken { Err(malformed(format!("{field} {operator} stands twice"))) } else { Ok(()) }
    }
}

/// A GUID without its braces.
fn bare(guid: &str) -> &str {
    guid.strip_prefix('{').and_then(|guid| guid.strip_suffix('}')).unwrap_or(guid)
}

/// A moment as RFC 3339 writes it, in microseconds since 1970.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn read_time(text: &str) -> Result<i64> {
    OffsetDateTime::parse(text, &Rfc3339).map(crate::clock::micros).map_err(|_| {
        Error::new(Reason::InvalidArgument, format!("{text} is not a time")).hint("write it as 2026-11-24T09:30:00Z")
    })
}

fn malformed(words: String) -> Error {
    Error::new(Reason::InvalidArgument, format!("filter: {words}")).hint(
        "join terms with AND: seq or time with >= or <, kind, caller, key, guid, outcome with =, each with a value in quotes",
    )
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |seq: Option<u64>| seq.map(|seq| seq.to_string());
        let moment = |time: Option<i64>| time.map(time_text);
        let terms = [
            ("seq >=", place(self.from_seq)),
            ("seq <", place(self.until_seq)),
            ("time >=", moment(self.from_us)),
            ("time <", moment(self.until_us)),
            ("kind =", self.kind.clone()),
            ("caller =", self.caller.clone()),
            ("key =", self.key.clone()),
            ("guid =", self.guid.clone()),
            ("outcome =", self.outcome.clone()),
        ];
        let mut between = "";
        for (term, value) in terms {
            if let Some(value) = value {
                write!(f, "{between}{term} \"{value}\"")?;
                between = " AND ";
            }
        }
        Ok(())
    }
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(Error::new(Reason::LimitExceeded, format!("a filter has at most {FILTER_BYTES_MAX} bytes")));
        }
        let mut filter = Filter::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let field_end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
            let (field, after) = rest.split_at(field_end);
            let after = after.trim_start();
            let operator = [">=", "<", "="].into_iter().find(|operator| after.starts_with(operator));
            let operator = operator.ok_or_else(|| malformed(format!("an operator is missing after {field:?}")))?;
            let (value, after) = value(after[operator.len()..].trim_start())?;
            filter.take(field, operator, value.to_owned())?;
            let after = after.trim_start();
            rest = match after.strip_prefix("AND ") {
                Some(more) if !more.trim().is_empty() => more.trim_start(),
                None if after.is_empty() => "",
                _ => return Err(malformed(format!("AND and a term are due where {after:?} stands"))),
            };
        }
        Ok(filter)
    }
}

/// A value and what stands behind it. A value in quotes holds no quotes and no backslashes; nothing that is recorded
/// here does.
fn value(text: &str) -> Result<(&str, &str)> {
    let fault = || malformed(format!("a value in quotes is due where {text:?} stands"));
    let (value, after) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or_else(fault)?,
        None => text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())),
    };
    if value.is_empty() || value.contains('\\') { Err(fault()) } else { Ok((value, after)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::record::{ActNote, OutcomeNote};
    use crate::caller::CallerNote;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap()
    }

    #[test]
    fn a_filter_reads_back_from_what_it_writes() {
        let full = r#"seq >= "3" AND seq < "9" AND time >= "2026-11-24T09:30:00.000000Z" AND time < "2026-11-25T00:00:00.000001Z" AND kind = "intent" AND caller = "clusters/a/nodes/n" AND key = "clusters/a/keys/slc-1" AND guid = "{AB}" AND outcome = "done""#;
        assert_eq!(filter(full).to_string(), full);
        assert_eq!(filter("").to_string(), "");
        assert_eq!(filter(" seq>=3   AND kind=\"intent\" "), filter(r#"kind = "intent" AND seq >= "3""#));
        assert_eq!(filter(r#"time >= "1970-01-01T01:00:00+01:00""#).from_us, Some(0));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for bad in [
            "kind",
            "kind =",
            "kind = intent",
            r#"kind = """#,
            r#"kind = "a"#,
            r#"kind = "a\b""#,
            r#"kind >= "a""#,
            r#"colour = "a""#,
            r#"kind = "a" AND"#,
            r#"kind = "a" AND kind = "b""#,
            r#"kind = "a" OR kind = "b""#,
            r#"seq >= "a""#,
            r#"time < "yesterday""#,
            r#"AND kind = "a""#,
        ] {
            assert_eq!(bad.parse::<Filter>().unwrap_err().reason(), Reason::InvalidArgument, "{bad}");
        }
        let long = format!(r#"kind = "{}""#, "a".repeat(FILTER_BYTES_MAX));
        assert_eq!(long.parse::<Filter>().unwrap_err().reason(), Reason::LimitExceeded);
    }

    #[test]
    fn an_outcome_is_chosen_by_what_its_intent_is_about() {
        let act = ActNote::SignDocument {
            key: "clusters/a/keys/slc-1".into(),
            kind: "use-license".into(),
            guid: "{AB-1}".into(),
            issued: "now".into(),
            digest: "sha256:00".into(),
        };
        let caller = CallerNote { certificate_sha256: Some("ff".into()), ..CallerNote::named("clusters/a/nodes/n") };
        let intent = Event::Intent { caller, rule: "r".into(), act };
        let outcome = Event::Outcome { intent: 0, result: OutcomeNote::Done { result: "s".into() } };
        for (text, of_intent, of_outcome) in [
            ("", true, true),
            (r#"kind = "intent""#, true, false),
            (r#"outcome = "done""#, false, true),
            (r#"outcome = "unknown""#, false, false),
            (r#"key = "clusters/a/keys/slc-1""#, true, true),
            (r#"key = "clusters/a/keys/slc-2""#, false, false),
            (r#"guid = "ab-1""#, true, true),
            (r#"caller = "ff" AND outcome = "done""#, false, true),
            (r#"caller = "clusters/a/nodes/n" AND guid = "{AB-2}""#, false, false),
        ] {
            let filter = filter(text);
            assert_eq!(filter.matches(&intent, None), of_intent, "{text}");
            assert_eq!(filter.matches(&outcome, Some(&intent)), of_outcome, "{text}");
        }
    }
}
