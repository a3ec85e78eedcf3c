//! Enrollment service certificate: what signs server licensor certificates (MS-RMPR 2.2.9.3.2).

use super::certificate::{self, AUTHORITY, Certificate, LICENSOR_DESCRIPTOR, SERVER, Stamp};
use super::content::Content;
use super::element::{Id, Object, Principal};
use super::kind::Kind;
use super::text::Body;
use crate::error::Result;
use crate::key::RsaPublicKey;

/// An enrollment service as a principal; `guid` in braces. It has no address: only servers have one.
#[must_use]
pub fn service(guid: &str, name: &str, key: RsaPublicKey) -> Principal {
    Principal::new(Object::new(SERVER, Id::guid(guid)).named(name), key)
}

/// An enrollment service certificate; `enrollment_ca` is the authority's principal.
#[must_use]
pub fn certificate(enrollment_ca: &Principal, principal: Principal, stamp: Stamp) -> Certificate {
    Certificate::new(LICENSOR_DESCRIPTOR, enrollment_ca, principal, stamp)
}

/// Reads and checks an enrollment service certificate.
///
/// # Errors
/// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
pub fn read(body: &Body) -> Result<Certificate> {
    certificate::read(body, &[Kind::EnrollmentService], check)
}

/// Refuses a view that is no such certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    certificate::check(content)?;
    certificate::check_types(content, [AUTHORITY, SERVER])?;
    certificate::check_key_sizes(content, [&[1024, 2048], &[1024, 2048]])?;
    let principal = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    principal.required_object("PRINCIPAL")?.required_guid("PRINCIPAL").map(|_| ())
}
