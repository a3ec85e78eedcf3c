//! One record of the log and its canonical bytes (RFC 8785 JSON), which are what is stored, hashed and exported.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::audit::canonical;
use crate::audit::chain::ChainHash;
use crate::audit::line::Line;
use crate::caller::CallerNote;
use crate::error::{Error, Reason, Result};

/// Version of the record format.
pub const FORMAT: u32 = 1;

/// Longest record, in bytes. Nearly all are below 1 KiB; one that decides about an anchor carries a signed note of up to
/// 64 KiB.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;
/// What a record's bytes are beyond event and log, at most about.
const ENVELOPE_BYTES: usize = 192;
/// Longest identity of a log, in bytes, for which room is left beside an event.
const LOG_BYTES: usize = 64;
/// Longest words that records take from outside, in characters.
const WORDS_CHARS_MAX: usize = 500;

/// Words from outside (of a caller, a document, a device) as records take them: their beginning.
#[must_use]
pub fn brief(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).collect()
}

/// One record. `seq` counts from 0 without gaps; `prev` is the hash of the bytes of the record before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format version, [`FORMAT`].
    pub v: u32,
    /// Identity of the log: a GUID made with the log.
    pub log: String,
    /// Place in the log.
    pub seq: u64,
    /// SHA-256 of the record before, hexadecimal; 64 zeros for the first.
    pub prev: ChainHash,
    /// When it was written: RFC 3339, UTC, microseconds.
    pub time: String,
    /// What happened.
    pub event: Event,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// An instance begins to write to this log.
    LogOpened {
        /// Version of the program.
        version: String,
        /// What it has open and what holds from now on, in words that name no secret.
        tokens: Vec<String>,
    },
    /// An instance ends in good order.
    LogClosed {},
    /// What holds from now on, for this run: the rules by which permits are given, and the configuration.
    InForce {
        /// The rules, one a line.
        policy: Vec<String>,
        /// SHA-256 of those lines, each with its line feed, hexadecimal.
        policy_sha256: String,
        /// Settings, in words that name no secret.
        settings: Vec<String>,
        /// SHA-256 of the configuration file, hexadecimal.
        configuration_sha256: String,
    },
    /// An act with a token's key is about to be done.
    Intent {
        /// Who asked.
        caller: CallerNote,
        /// The rule that allows it.
        rule: String,
        /// What will be done.
        act: ActNote,
    },
    /// What became of an intent.
    Outcome {
        /// The intent's `seq`.
        intent: u64,
        /// What became of it.
        result: OutcomeNote,
    },
    /// A request that was refused before any token was asked.
    Refusal {
        /// Who asked.
        caller: CallerNote,
        /// What for: the operation's name.
        operation: String,
        /// The object it named.
        target: String,
        /// The closed reason.
        reason: String,
        /// The words the caller got.
        message: String,
    },
    /// Refusals of one source beyond those that are recorded each for itself: each was told, and counted.
    RefusalsCounted {
        /// Who asked; `others` for strangers beyond those that are told apart.
        caller: CallerNote,
        /// How many, by operation and reason, such as `join-cluster UNAUTHENTICATED`.
        counts: BTreeMap<String, u64>,
        /// When counting began: RFC 3339, UTC.
        from: String,
        /// When it ended.
        until: String,
    },
    /// A node came into being: its join token is spent, its certificate counts from now on.
    Joined {
        /// Who held the token.
        caller: CallerNote,
        /// Resource name of the node.
        node: String,
        /// SHA-256 of its client certificate, hexadecimal.
        certificate_sha256: String,
    },
    /// A step of an enrollment: a request written, received or answered, a response taken in or refused.
    Enrollment {
        /// Who asked.
        caller: CallerNote,
        /// `request-exported`, `request-received`, `request-refused`, `response-issued`, `response-imported`,
        /// `response-refused`.
        step: String,
        /// The cluster's resource name, or the server GUID at the authority.
        subject: String,
        /// SHA-256 of the request's or response's bytes, hexadecimal.
        document_sha256: String,
        /// What a person should know of it: accepted differences, or why it was refused.
        detail: String,
    },
    /// Something was done that needs no key of custody.
    Performed {
        /// Who asked.
        caller: CallerNote,
        /// The rule that allows it.
        rule: String,
        /// The operation's name.
        operation: String,
        /// The object it was about.
        target: String,
    },
    /// A stored object is new or has changed.
    Changed {
        /// Kind of object.
        object: String,
        /// Its resource name.
        name: String,
        /// Its version after the change, from 1.
        version: u64,
        /// SHA-256 of the object's stored bytes, hexadecimal.
        sha256: String,
    },
    /// Another log of the same store was opened or closed, as whoever writes this one has seen.
    OtherLog {
        /// Identity of that log.
        log: String,
        /// `opened` or `closed`.
        state: String,
        /// Place of the record in that log that says so.
        seq: u64,
        /// SHA-256 of that record, hexadecimal.
        sha256: String,
    },
    /// The log goes on from a store that does not continue what was signed before it, because a person said so.
    ReAnchored {
        /// Who said so.
        caller: CallerNote,
        /// The rule that allows it.
        rule: String,
        /// Who agreed, in words.
        agreed: String,
        /// What was wrong: the closed reason.
        reason: String,
        /// The same in words, with what is lost.
        message: String,
        /// The anchor that is given up, a signed checkpoint; empty if there was none to read.
        anchor: String,
        /// How many checkpoints the store had of this log, all of which are given up. Version 0.1.0 did not say so.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoints: Option<u64>,
    },
    /// The store was made of a backup: the first record behind it.
    Restored {
        /// Who made it.
        caller: CallerNote,
        /// The rule that allows it.
        rule: String,
        /// Records in the backup.
        records: u64,
        /// SHA-256 of the last of them, hexadecimal.
        sha256: String,
        /// SHA-256 of the backup's list of files, hexadecimal.
        manifest_sha256: String,
        /// When the backup was signed for; left out if nobody has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<String>,
        /// The checkpoint that it was held against: a signed note.
        checkpoint: String,
    },
    /// A key's state has changed.
    KeyState {
        /// Its resource name.
        key: String,
        /// The state before.
        from: String,
        /// The state from now on.
        to: String,
        /// Who did it.
        caller: CallerNote,
        /// Why.
        reason: String,
    },
    /// Keys of role `probe` are used in this run, to see whether tokens work. These uses have no records of their own.
    Maintenance {
        /// Who runs it.
        caller: CallerNote,
        /// `health`: while the service runs; `probe`: all that a token does was tried out.
        purpose: String,
        /// Resource names of the keys, or the token in which keys are made for it.
        keys: Vec<String>,
    },
    /// A token's PIN was refused and is latched, or a token is quarantined, or a person cleared that.
    TokenState {
        /// The device: label and serial.
        token: String,
        /// `login-begun`, `logged-in`, `login-not-made`, `latched`, `unlatched`, `quarantined`, `released`.
        state: String,
        /// Who did it.
        caller: CallerNote,
        /// Why.
        reason: String,
    },
}

/// An act with a key, as it stands in an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ActNote {
    /// Make a key pair.
    GenerateKey {
        /// Resource name of the new key.
        key: String,
        /// CKA_ID it gets, hexadecimal.
        id: String,
        /// Role and algorithm.
        role: String,
        /// The token's name in the configuration.
        token: String,
    },
    /// Sign an X.509 certificate of the TLS authority.
    SignTlsCertificate {
        /// Resource name of the key.
        key: String,
        /// Who the certificate is for.
        subject: String,
        /// Hash and digest of the TBSCertificate, `sha256:…`.
        digest: String,
    },
    /// Sign an XrML document.
    SignDocument {
        /// Resource name of the key.
        key: String,
        /// Kind of document.
        kind: String,
        /// GUID in the document's DESCRIPTOR.
        guid: String,
        /// ISSUEDTIME as written.
        issued: String,
        /// Hash and digest of the BODY, `sha256:…`.
        digest: String,
    },
}

/// What became of an act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OutcomeNote {
    /// The token did it, and what came back was verified.
    Done {
        /// What came of it: the signature in base64, or the public key's SHA-256.
        result: String,
    },
    /// The token certainly did not do it.
    Refused {
        /// The closed reason.
        reason: String,
        /// In words, with the device's answer.
        message: String,
    },
    /// It is not known whether the token did it. Nothing was released.
    Unknown {
        /// The closed reason.
        reason: String,
        /// In words, with the device's answer.
        message: String,
    },
}

impl Event {
    /// The name of the event's kind, as it stands in the record.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Event::LogOpened { .. } => "log-opened",
            Event::LogClosed {} => "log-closed",
            Event::InForce { .. } => "in-force",
            Event::Intent { .. } => "intent",
            Event::Outcome { .. } => "outcome",
            Event::Refusal { .. } => "refusal",
            Event::RefusalsCounted { .. } => "refusals-counted",
            Event::Joined { .. } => "joined",
            Event::Enrollment { .. } => "enrollment",
            Event::Performed { .. } => "performed",
            Event::Changed { .. } => "changed",
            Event::OtherLog { .. } => "other-log",
            Event::ReAnchored { .. } => "re-anchored",
            Event::Restored { .. } => "restored",
            Event::KeyState { .. } => "key-state",
            Event::Maintenance { .. } => "maintenance",
            Event::TokenState { .. } => "token-state",
        }
    }

    /// Who asked for it, or did it.
    #[must_use]
    pub const fn caller(&self) -> Option<&CallerNote> {
        match self {
            Event::Intent { caller, .. }
            | Event::Refusal { caller, .. }
            | Event::RefusalsCounted { caller, .. }
            | Event::Joined { caller, .. }
            | Event::Enrollment { caller, .. }
            | Event::Performed { caller, .. }
            | Event::ReAnchored { caller, .. }
            | Event::Restored { caller, .. }
            | Event::KeyState { caller, .. }
            | Event::Maintenance { caller, .. }
            | Event::TokenState { caller, .. } => Some(caller),
            _ => None,
        }
    }

    /// Resource name of the key that it is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Event::Intent { act, .. } => Some(act.key()),
            Event::Changed { object, name, .. } if object == "key" => Some(name),
            Event::KeyState { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The GUID that it is about: a document's, or the server's in an enrollment at an authority.
    #[must_use]
    pub fn guid(&self) -> Option<&str> {
        match self {
            Event::Intent { act: ActNote::SignDocument { guid, .. }, .. } => Some(guid),
            Event::Enrollment { subject, .. } => Some(subject),
            _ => None,
        }
    }

    /// What became of an act, if it says that: `done`, `refused` or `unknown`.
    #[must_use]
    pub const fn outcome(&self) -> Option<&'static str> {
        match self {
            Event::Outcome { result: OutcomeNote::Done { .. }, .. } => Some("done"),
            Event::Outcome { result: OutcomeNote::Refused { .. }, .. } => Some("refused"),
            Event::Outcome { result: OutcomeNote::Unknown { .. }, .. } => Some("unknown"),
            _ => None,
        }
    }
}

impl ActNote {
    /// Resource name of the key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            ActNote::GenerateKey { key, .. }
            | ActNote::SignTlsCertificate { key, .. }
            | ActNote::SignDocument { key, .. } => key,
        }
    }

    /// The act's name, as it stands in the record.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            ActNote::GenerateKey { .. } => "generate-key",
            ActNote::SignTlsCertificate { .. } => "sign-tls-certificate",
            ActNote::SignDocument { .. } => "sign-document",
        }
    }
}

fn unwritten(fault: serde_json::Error) -> Error {
    Error::new(Reason::Internal, "a record cannot be written as JSON").detail(fault)
}

impl Event {
    /// The canonical bytes: RFC 8785 JSON.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` if a record of it would be longer than [`RECORD_BYTES_MAX`]; `INTERNAL` if the event cannot be
    /// written as JSON.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = canonical::to_vec(self).map_err(unwritten)?;
        if bytes.len() + LOG_BYTES + ENVELOPE_BYTES > RECORD_BYTES_MAX {
            let words = format!("a record of {} would have {} bytes of event", self.kind(), bytes.len());
            return Err(Error::new(Reason::LimitExceeded, words)
                .hint(format!("a record has at most {RECORD_BYTES_MAX} bytes; nothing was recorded")));
        }
        Ok(bytes)
    }
}

impl Record {
    /// The canonical bytes: RFC 8785 JSON.
    ///
    /// # Errors
    /// `INTERNAL` if the record cannot be written as JSON.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        canonical::to_vec(self).map_err(unwritten)
    }

    /// The same bytes, for an event whose canonical bytes are known.
    ///
    /// # Errors
    /// As [`Record::bytes`].
    pub fn bytes_around(event: &[u8], log: &str, seq: u64, prev: ChainHash, time: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(event.len() + log.len() + ENVELOPE_BYTES);
        bytes.extend_from_slice(b"{\"event\":");
        bytes.extend_from_slice(event);
        bytes.extend_from_slice(b",\"log\":");
        serde_json::to_writer(&mut bytes, log).map_err(unwritten)?;
        // Digits and a time need no escapes.
        write!(bytes, ",\"prev\":\"{prev}\",\"seq\":{seq},\"time\":\"{time}\",\"v\":{FORMAT}}}")
            .map_err(|fault| Error::new(Reason::Internal, "a record cannot be written").detail(fault))?;
        Ok(bytes)
    }

    /// Reads stored bytes. They must be canonical: what [`Record::bytes`] would write.
    ///
    /// # Errors
    /// `RECORD_BROKEN` for anything else.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Line::read(bytes)?;
        Record::stored(bytes)
    }

    /// Reads bytes of our own store, whose form was checked when they were written.
    ///
    /// # Errors
    /// `RECORD_BROKEN` for anything but a record.
    pub fn stored(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|fault| Error::new(Reason::RecordBroken, format!("not a record: {fault}")))
    }

    /// When it was written, in microseconds since 1970.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if that is no time in the form of records.
    pub fn time_us(&self) -> Result<i64> {
        read_time(&self.time)
    }
}

/// A time and its text in records: written once for all records of a commit.
#[derive(Clone, Debug)]
pub struct Moment {
    us: i64,
    text: String,
}

impl Moment {
    /// The moment so many microseconds after 1970.
    #[must_use]
    pub fn of(us: i64) -> Self {
        Moment { us, text: time_text(us) }
    }

    /// Microseconds since 1970, UTC.
    #[must_use]
    pub const fn us(&self) -> i64 {
        self.us
    }

    /// As records have it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Reads a time as records have it, in microseconds since 1970.
///
/// # Errors
/// `RECORD_BROKEN` if it is in another form.
pub fn read_time(text: &str) -> Result<i64> {
    let is_ours = text.len() == TIME_CHARS && text.as_bytes()[10] == b'T' && text.ends_with('Z');
    let time = is_ours.then(|| OffsetDateTime::parse(text, &Rfc3339).ok()).flatten();
    time.map(crate::clock::micros)
        .ok_or_else(|| Error::new(Reason::RecordBroken, format!("{text} is not a time as records have it")))
}

/// Characters of a time in a record, such as `2026-11-24T09:30:00.000000Z`.
const TIME_CHARS: usize = 27;

/// Writes a time as records do: RFC 3339, UTC, always six digits of a second.
#[must_use]
pub fn time_text(time_us: i64) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let time = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::microseconds(time_us));
    time.format(FORM).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            v: FORMAT,
            log: "f0e4c2f7-6c58-4a1c-9b1f-0e5c0d8b2f11".into(),
            seq: 3,
            prev: ChainHash::ZERO,
            time: time_text(1_700_000_000_000_001),
            event: Event::LogClosed {},
        }
    }

    #[test]
    fn canonical_bytes_are_sorted_and_read_back() {
        let bytes = record().bytes().unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            format!(
                r#"{{"event":{{"type":"log-closed"}},"log":"f0e4c2f7-6c58-4a1c-9b1f-0e5c0d8b2f11","prev":"{}","seq":3,"time":"2023-11-14T22:13:20.000001Z","v":1}}"#,
                "0".repeat(64)
            )
        );
        assert_eq!(Record::read(&bytes).unwrap(), record());
        assert_eq!(record().time_us().unwrap(), 1_700_000_000_000_001);
    }

    #[test]
    fn bytes_around_an_event_are_those_of_its_record() {
        for text in ["", "a \"quoted\" \\ name", "line\nfeed \u{1} \u{7f} é \u{1f600}"] {
            let event = Event::Outcome { intent: 7, result: OutcomeNote::Done { result: text.into() } };
            let record = Record { log: text.into(), seq: 1 << 40, event, ..record() };
            let Record { log, seq, prev, time, event, .. } = &record;
            let bytes = Record::bytes_around(&event.bytes().unwrap(), log, *seq, *prev, time).unwrap();
            assert_eq!(bytes, serde_json_canonicalizer::to_vec(&record).unwrap());
            assert_eq!(bytes, record.bytes().unwrap());
        }
    }

    #[test]
    fn bytes_that_say_the_same_in_another_form_are_refused() {
        let text = String::from_utf8(record().bytes().unwrap()).unwrap();
        let spaced = text.replace(r#""seq":3"#, r#""seq": 3"#);
        assert_eq!(Record::read(spaced.as_bytes()).unwrap_err().reason(), Reason::RecordBroken);
        let unknown = text.replace(r#""v":1"#, r#""v":1,"w":1"#);
        assert_eq!(Record::read(unknown.as_bytes()).unwrap_err().reason(), Reason::RecordBroken);
    }
}
