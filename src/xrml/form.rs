//! Form: whether a document has what its kind must have, found on the view that was read once.

use super::content::Content;
use super::kind::Kind;
use super::text::Body;
use super::{clc, enrollment_ca, enrollment_service, pl, rac, revocation, rights_data, slc, spc, template, ul};
use crate::error::Result;

/// Refuses a document that lacks a part which MS-RMPR makes mandatory for its kind, or has it in an impossible form: what
/// the kind's own reader refuses. Where several certificates share a kind, what is common to them.
///
/// # Errors
/// `DOCUMENT_INCOMPLETE`, and for the entries of a revocation list those of its reader.
pub(super) fn check(kind: Kind, body: &Body, content: &Content) -> Result<()> {
    match kind {
        // A CA certificate has the same form, with a key of 2048 bits; only the place in a chain tells them apart.
        Kind::Ca => enrollment_ca::check(content),
        Kind::EnrollmentService => enrollment_service::check(content),
        Kind::Slc | Kind::SubSlc => slc::check(content),
        Kind::ProcessorCa | Kind::ProcessorIssuer => spc::check_issuer(content),
        Kind::Spc => spc::check(content),
        Kind::Rac | Kind::UserKey => rac::check(content),
        Kind::Clc => clc::check(content),
        Kind::Pl => pl::check(content),
        Kind::Ul => ul::check(content),
        Kind::RightsData => rights_data::check(content),
        Kind::Template => template::check(content),
        Kind::RevocationList => revocation::check(content).and(revocation::read_entries(body).map(|_| ())),
    }
}
