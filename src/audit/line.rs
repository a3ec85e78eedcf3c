//! A record as the chain sees it: what every record has, whatever its event says.

use std::borrow::Cow;

use serde::Deserialize;

use crate::audit::chain::ChainHash;
use crate::audit::form::is_canonical;
use crate::audit::record::{FORMAT, read_time};
use crate::error::{Error, Reason, Result};

/// A record's frame. Events of kinds that this version does not know are frames like others, so that an old verifier
/// checks a new log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line<'a> {
    /// Format version.
    pub v: u32,
    /// Identity of the log.
    #[serde(borrow)]
    pub log: Cow<'a, str>,
    /// Place in the log.
    pub seq: u64,
    /// SHA-256 of the record before.
    pub prev: ChainHash,
    /// When it was written, as text.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    /// What stands in every event.
    #[serde(borrow)]
    pub event: Said<'a>,
}

/// What a frame shows of the event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Said<'a> {
    /// Its kind.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The intent that an outcome closes.
    #[serde(default)]
    pub intent: Option<u64>,
}

impl<'a> Line<'a> {
    /// Reads stored bytes. They must be canonical (RFC 8785).
    ///
    /// # Errors
    /// `RECORD_BROKEN` for anything else.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let broken = |words: String| Error::new(Reason::RecordBroken, words);
        let text = std::str::from_utf8(bytes).map_err(|_| broken("not a record: not UTF-8".to_owned()))?;
        let line: Line<'a> = serde_json::from_str(text).map_err(|fault| broken(format!("not a record: {fault}")))?;
        if line.v != FORMAT {
            return Err(broken(format!("record format {} is not known here", line.v)));
        }
        if !is_canonical(bytes) {
            return Err(broken("the record is not in canonical form".to_owned()));
        }
        Ok(line)
    }

    /// The event's kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.event.kind
    }

    /// When it was written, in microseconds since 1970.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if that is no time in the form of records.
    pub fn time_us(&self) -> Result<i64> {
        read_time(&self.time)
    }
}
