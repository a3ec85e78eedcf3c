//! The gRPC door: one file per service. Protocol messages stop here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Request;

use crate::custody::{Custody, DEADLINE_S, Page};
use crate::enrollment::cluster::Product;
use crate::error::{Error, Reason, Result};
use crate::sink::Sinks;
use crate::tls::Authority;

mod audit;
pub mod client;
mod clusters;
mod enrollment;
mod entries;
mod identity;
mod incoming;
mod keys;
mod licensing;
mod nodes;
mod patience;
mod proofs;
pub mod server;
pub mod status;
mod tokens;

/// The generated protocol.
#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("keyward.v1");

    /// The compiled descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("keyward.v1");
}

/// Largest message, in bytes, in either direction: a document of 8 MiB and what goes with it.
pub const MESSAGE_BYTES_MAX: usize = 9 * 1024 * 1024;

/// Longest resource name, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// What every service of this door works with.
#[derive(Clone)]
pub struct Door {
    /// The keys.
    pub custody: Arc<Custody>,
    /// Who certifies nodes.
    pub authority: Arc<Authority>,
    /// Where nodes connect, as a URL.
    pub endpoint: Arc<str>,
    /// Where nodes join, as a URL.
    pub join_endpoint: Arc<str>,
    /// What clusters are enrolled as.
    pub product: Arc<Product>,
    /// The copies of the log.
    pub sinks: Arc<Sinks>,
}

/// When the caller stops waiting: what its `grpc-timeout` says, or ten seconds from now if that is sooner.
fn deadline<T>(request: &Request<T>) -> Instant {
    let asked = request.metadata().get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    let most = Duration::from_secs(DEADLINE_S);
    Instant::now() + asked.map_or(most, |asked| asked.min(most))
}

/// Reads a timeout as gRPC over HTTP/2 writes it: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Checks the form of a resource name before anything is made of it, records and refusals included.
fn check_name(name: &str) -> Result<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let words = format!("a resource name is 1 to {NAME_BYTES_MAX} printable ASCII characters without blanks");
    Err(Error::new(Reason::InvalidArgument, words).hint("name it as it is listed, such as clusters/emea"))
}

/// A page as it was asked for (AIP-158), its size within bounds.
fn page(size: i32, token: &str) -> Page<'_> {
    const DEFAULT: u32 = 100;
    const MAX: u32 = 1000;
    let size = u32::try_from(size).unwrap_or(0);
    Page { size: if size == 0 { DEFAULT } else { size.min(MAX) }, after: token }
}

/// The token of the page after this one: the last name, if the page is full.
fn next_page<T>(found: &[T], page: Page<'_>, name: impl Fn(&T) -> &str) -> String {
    found.last().filter(|_| found.len() == page.size as usize).map(|last| name(last).to_owned()).unwrap_or_default()
}

/// A time of records as a protocol timestamp.
fn timestamp(time_us: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time_us.div_euclid(1_000_000),
        nanos: i32::try_from(time_us.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert!(check_name(&"n".repeat(NAME_BYTES_MAX)).is_ok());
        for bad in ["", "a b", "a\n", "ä", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        for bad in ["", "S", "3", "3x", "123456789S", "-1S", "3Ä"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
