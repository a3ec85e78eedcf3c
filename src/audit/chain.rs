//! The hash chain: each record carries the hash of the record before, and a head says where the chain ends.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::audit::line::Line;
use crate::audit::record::{Moment, Record};
use crate::error::{Error, Reason, Result};

/// SHA-256 of a record's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What stands before the first record.
    pub const ZERO: ChainHash = ChainHash([0; 32]);

    /// The hash of a record's canonical bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        ChainHash(hash)
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads what `Display` writes: 64 hexadecimal digits in lower case, and no other spelling.
impl FromStr for ChainHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = || Error::new(Reason::InvalidArgument, "a hash is 64 hexadecimal digits in lower case");
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| fault())?;
        let (mut hash, mut any) = ([0; 32], 0);
        // Every record has one to be read: all digits alike, and without a branch for each.
        for (byte, [high, low]) in hash.iter_mut().zip(digits.as_chunks().0) {
            let (high, low) = (digit(*high), digit(*low));
            *byte = high << 4 | low & 0xf;
            any |= high | low;
        }
        if any > 0xf { Err(fault()) } else { Ok(ChainHash(hash)) }
    }
}

/// What a hexadecimal digit in lower case stands for; more than 15 for anything else.
const fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => 0xff,
    }
}

impl Serialize for ChainHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a log ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Identity of the log.
    pub log: String,
    /// Number of records.
    pub size: u64,
    /// Hash of the last record; zeros for an empty log.
    pub chain: ChainHash,
    /// Time of the last record: microseconds since 1970; 0 for an empty log.
    pub time_us: i64,
}

/// A record that has its place: the record itself and its canonical bytes.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The place in the log.
    pub seq: u64,
    /// The canonical bytes.
    pub bytes: Vec<u8>,
}

impl Head {
    /// The head of a log without records.
    #[must_use]
    pub fn empty(log: impl Into<String>) -> Self {
        Head { log: log.into(), size: 0, chain: ChainHash::ZERO, time_us: 0 }
    }

    /// Gives an event, as its canonical bytes, the next place and moves the head there. The time never runs back within a
    /// log: a clock that was set back repeats the last record's time.
    ///
    /// # Errors
    /// `INTERNAL` if the record cannot be written.
    pub fn append(&mut self, event: &[u8], now: &Moment) -> Result<Placed> {
        let last;
        let time = if now.us() < self.time_us {
            last = Moment::of(self.time_us);
            &last
        } else {
            now
        };
        let seq = self.size;
        let bytes = Record::bytes_around(event, &self.log, seq, self.chain, time.text())?;
        self.chain = ChainHash::of(&bytes);
        self.size += 1;
        self.time_us = time.us();
        Ok(Placed { seq, bytes })
    }

    /// Checks that these bytes are the next record and moves the head there.
    ///
    /// # Errors
    /// `RECORD_BROKEN`, saying in which way the bytes do not follow.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<()> {
        let line = Line::read(bytes)?;
        let time_us = line.time_us()?;
        self.check_link(&line)?;
        self.check_time(time_us)?;
        self.advance(bytes, time_us);
        Ok(())
    }

    /// Checks that a record has its place here, by log, number and hash.
    ///
    /// # Errors
    /// `RECORD_BROKEN`.
    pub fn check_link(&self, line: &Line<'_>) -> Result<()> {
        let broken = |words: String| Err(Error::new(Reason::RecordBroken, words));
        if line.log != self.log {
            return broken(format!("belongs to log {}, not {}", line.log, self.log));
        }
        if line.seq != self.size {
            return broken(format!("has number {} where {} is due", line.seq, self.size));
        }
        if line.prev != self.chain {
            return broken("does not carry the hash of the record before it: one of the two was changed".to_owned());
        }
        Ok(())
    }

    /// Checks that time does not run back.
    ///
    /// # Errors
    /// `RECORD_BROKEN`.
    pub fn check_time(&self, time_us: i64) -> Result<()> {
        if time_us < self.time_us {
            return Err(Error::new(Reason::RecordBroken, "is dated before the record it follows"));
        }
        Ok(())
    }

    /// Moves the head over a record that was checked.
    pub(super) fn advance(&mut self, bytes: &[u8], time_us: i64) {
        self.size += 1;
        self.chain = ChainHash::of(bytes);
        self.time_us = time_us;
    }
}
