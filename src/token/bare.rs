//! The bare signing loop: what a device does when nothing is around it. The measure that `keyward bench` holds host,
//! lane and service against.

use std::time::{Duration, Instant};

use super::profile::{Kind, Profile};
use super::{Binding, Failure, KeyRef, pkcs11, tpm};
use crate::error::Result;
use crate::secret::Pin;

/// What a loop of signatures came to.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// Signatures of all threads in a second.
    pub per_second: f64,
    /// Half of the signatures took no longer.
    pub p50: Duration,
}

impl Rate {
    /// The rate of so many times, all taken between `start` and now.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 signatures")]
    pub fn of(mut times: Vec<Duration>, start: Instant) -> Self {
        let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
        times.sort_unstable();
        Rate { per_second, p50: times.get(times.len() / 2).copied().unwrap_or_default() }
    }
}

/// Opens a token in this process, signs with an RSA key of it for this long, and closes it: in so many sessions with a
/// thread each, or one after the other if the device is a TPM.
///
/// # Errors
/// Those of [`super::open`], or the device's answer.
pub fn bare(
    binding: &Binding,
    profile: &Profile,
    pin: Pin,
    key: &KeyRef,
    threads: usize,
    duration: Duration,
) -> Result<Rate> {
    Ok(match profile.kind {
        Kind::Pkcs11 => pkcs11::open(binding, profile, || Ok(pin))?.bare(key, threads, duration)?,
        Kind::Tpm => tpm::open(binding, profile, || Ok(pin))?.bare(key, duration)?,
    })
}

/// Signs again and again, at least once, also on a machine that has other things to do; gives the time of each.
pub(super) fn times(
    start: Instant,
    duration: Duration,
    mut sign: impl FnMut() -> std::result::Result<(), Failure>,
) -> std::result::Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    let mut begin = Instant::now();
    loop {
        sign()?;
        let end = Instant::now();
        times.push(end.duration_since(begin));
        if end.duration_since(start) >= duration {
            return Ok(times);
        }
        begin = end;
    }
}
