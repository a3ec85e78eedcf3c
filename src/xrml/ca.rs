//! CA certificate: the first below the root, which itself is only a pinned key (MS-RMPR 2.2.9.3.1).

use super::certificate::{self, AUTHORITY, CA_DESCRIPTOR, Certificate, Stamp};
use super::content::Content;
use super::element::{Id, Object, Principal};
use super::kind::Kind;
use super::text::Body;
use crate::error::Result;
use crate::key::RsaPublicKey;

/// An authority as a principal: its name is its ID as well.
#[must_use]
pub fn authority(name: &str, key: RsaPublicKey) -> Principal {
    Principal::new(Object::new(AUTHORITY, Id::tag(name)).named(name), key)
}

/// A CA certificate; `root` and `principal` are authorities with keys of 2048 bits.
#[must_use]
pub fn certificate(root: &Principal, principal: Principal, stamp: Stamp) -> Certificate {
    Certificate::new(CA_DESCRIPTOR, root, principal, stamp)
}

/// Reads and checks a CA certificate.
///
/// # Errors
/// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
pub fn read(body: &Body) -> Result<Certificate> {
    certificate::read(body, &[Kind::Ca], check)
}

/// Refuses a view that is no such certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    certificate::check(content)?;
    certificate::check_types(content, [AUTHORITY, AUTHORITY])?;
    certificate::check_key_sizes(content, [&[2048], &[2048]])
}
