//! Rights policy template: rights that a server signed for authors to choose (MS-RMPR 2.2.9.10).

use super::content::Content;
use super::element::Object;
use super::kind::Kind;
use super::markup::incomplete;
use super::rights_data::{self, RightsData};
use super::signature::{self, Digest, Signature};
use super::text::{Body, Document};
use crate::error::Result;
use crate::key::RsaPublicKey;

/// Reads a BODY as a template: rights data with a GUID of its own and the server as ISSUER.
///
/// # Errors
/// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
pub fn read(body: &Body) -> Result<RightsData> {
    Kind::expect(&[Kind::Template], body)?;
    let content = Content::read(body)?;
    check(&content)?;
    RightsData::of(content, true)
}

/// Refuses a view that is no template.
pub(super) fn check(content: &Content) -> Result<()> {
    rights_data::check(content)?;
    Content::required(content.issuer.as_ref(), "ISSUER")?.required_key("ISSUER")?;
    Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?.required_guid("DESCRIPTOR")?;
    if content.work.as_ref().is_none_or(|work| work.rights.is_empty()) {
        return Err(incomplete("WORK grants no right"));
    }
    Ok(())
}

/// Writes a template's BODY for signing.
///
/// # Errors
/// As [`read`].
pub fn write(template: &RightsData) -> Result<Body> {
    let body = RightsData { is_official: true, ..template.clone() }.write()?;
    read(&body)?;
    Ok(body)
}

/// Reads a template whose signature holds under a server's key.
///
/// # Errors
/// As [`read`] and [`signature::verify`].
pub fn verified(document: &Document, server: &RsaPublicKey) -> Result<RightsData> {
    signature::verify(document, server)?;
    read(document.body())
}

/// The hash by which servers and clients tell that a template changed: the digest in its SIGNATURE (MS-RMPR 3.4.4.2.3.2).
///
/// # Errors
/// `DOCUMENT_INCOMPLETE`.
pub fn hash(document: &Document) -> Result<Digest> {
    Ok(Signature::read(document.signature()?)?.digest)
}

/// The template's GUID and its names, one for each language.
///
/// # Errors
/// `DOCUMENT_INCOMPLETE`.
pub fn descriptor(template: &RightsData) -> Result<&Object> {
    template.descriptor.as_ref().ok_or_else(|| incomplete("BODY has no DESCRIPTOR"))
}
