//! Enrollment CA certificate: the authority that vouches for enrollment services (MS-RMPR 2.2.9.3.1).

use super::certificate::{self, AUTHORITY, CA_DESCRIPTOR, Certificate, Stamp};
use super::content::Content;
use super::element::Principal;
use super::kind::Kind;
use super::text::Body;
use crate::error::Result;

/// An enrollment CA certificate; `ca` is the CA's principal, `principal` an authority.
#[must_use]
pub fn certificate(ca: &Principal, principal: Principal, stamp: Stamp) -> Certificate {
    Certificate::new(CA_DESCRIPTOR, ca, principal, stamp)
}

/// Reads and checks an enrollment CA certificate. It has the form of a CA certificate, except that the principal's key
/// may have 1024 bits.
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
    certificate::check_key_sizes(content, [&[2048], &[1024, 2048]])
}
