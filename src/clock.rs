//! The one clock and the one random source.
#![allow(clippy::disallowed_methods, reason = "banned everywhere else in favour of what stands here")]

use std::time::SystemTime;

use time::{OffsetDateTime, UtcOffset};

use crate::error::{Error, Reason, Result};

/// The time now, UTC.
#[must_use]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now()).to_offset(UtcOffset::UTC)
}

/// Microseconds since 1970-01-01T00:00Z: the time unit of records.
#[must_use]
pub fn now_us() -> i64 {
    micros(now())
}

/// Microseconds since 1970-01-01T00:00Z of `time`; saturates in the year 292 277.
#[must_use]
pub fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// Fills an array from the operating system's random source.
///
/// # Errors
/// `INTERNAL` if the source fails; nothing that needs randomness may go on then.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::new(Reason::Internal, "the system's random source failed"))?;
    Ok(bytes)
}
