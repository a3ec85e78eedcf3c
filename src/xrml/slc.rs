//! Server licensor certificate of a cluster, with standard or custom revocation (MS-RMPR 2.2.9.3.3 to 2.2.9.3.5).

use super::certificate::{self, Certificate, LICENSOR_DESCRIPTOR, SERVER, Stamp};
use super::content::Content;
use super::element::{DistributionPoint, Id, Object, Principal, SecurityLevel};
use super::kind::Kind;
use super::license::Refresh;
use super::markup::incomplete;
use super::text::Body;
use super::time::{Interval, Range};
use crate::error::{Error, Reason, Result};
use crate::key::RsaPublicKey;

/// ID of every revocation authority.
pub const REVOCATION_AUTHORITY: &str = "External revocation authority";
/// DISTRIBUTIONPOINT type of revocation authorities.
pub const REVOCATION: &str = "Revocation";

/// What an enrolling server says of itself.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its GUID in braces; stable across renewals.
    pub guid: String,
    /// Its name; none in the first version of the product.
    pub name: Option<String>,
    /// Its base URL, letter case kept.
    pub url: String,
    /// SECURITYLEVEL `Server-Version`.
    pub version: String,
    /// SECURITYLEVEL `Server-SKU`.
    pub sku: String,
    /// Its public key, 1024 or 2048 bits.
    pub key: RsaPublicKey,
}

impl Server {
    /// The server as a principal.
    #[must_use]
    pub fn principal(self) -> Principal {
        let object = Object { name: self.name, ..Object::new(SERVER, Id::guid(self.guid)).at(self.url) };
        let levels =
            vec![SecurityLevel::new("Server-Version", self.version), SecurityLevel::new("Server-SKU", self.sku)];
        Principal { levels, ..Principal::new(object, self.key) }
    }
}

/// A server licensor certificate with standard revocation; `service` is the enrollment service's principal.
#[must_use]
pub fn certificate(service: &Principal, server: Server, stamp: Stamp) -> Certificate {
    Certificate::new(LICENSOR_DESCRIPTOR, service, server.principal(), stamp)
}

/// The same with custom revocation: the enrollment service's own key, which always comes first, and at least one more.
///
/// # Errors
/// `INVALID_ARGUMENT` if no authority is given; `DOCUMENT_INCOMPLETE` if the service has no key.
pub fn certificate_with_authorities(
    service: &Principal,
    server: Server,
    stamp: Stamp,
    authorities: &[RsaPublicKey],
) -> Result<Certificate> {
    if authorities.is_empty() {
        return Err(Error::new(Reason::InvalidArgument, "custom revocation names no authority")
            .hint("Give the public key of at least one revocation authority, or choose standard revocation"));
    }
    let own = service.required_key("the enrollment service")?;
    let points = std::iter::once(own).chain(authorities).map(|key| DistributionPoint {
        object: Object::new(REVOCATION, Id::tag(REVOCATION_AUTHORITY)),
        key: Some(Box::new(key.clone())),
    });
    let refresh = Refresh { points: points.collect(), interval: Interval::default() };
    Ok(Certificate { revocation: Some(refresh), ..certificate(service, server, stamp) })
}

/// The server licensor certificate of a licensing-only cluster, issued by another cluster's. Its time to issue is cut to
/// the part that lies in its parent's, so that nothing outlives what vouches for it.
///
/// # Errors
/// `DOCUMENT_DATES` if no part of it does.
pub fn sub_certificate(parent: &Certificate, server: Server, stamp: Stamp) -> Result<Certificate> {
    let range =
        Range { from: stamp.range.from.max(parent.range.from), until: stamp.range.until.min(parent.range.until) };
    if range.from >= range.until {
        return Err(Error::new(Reason::DocumentDates, "the issuing certificate is not valid at any time asked for"));
    }
    Ok(Certificate::new(LICENSOR_DESCRIPTOR, &parent.principal, server.principal(), Stamp { range, ..stamp }))
}

/// Reads and checks a server licensor certificate, issued by an enrollment service or by another server.
///
/// # Errors
/// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
pub fn read(body: &Body) -> Result<Certificate> {
    certificate::read(body, &[Kind::Slc, Kind::SubSlc], check)
}

/// Refuses a view that is no such certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    certificate::check(content)?;
    certificate::check_types(content, [SERVER, SERVER])?;
    certificate::check_key_sizes(content, [&[1024, 2048], &[1024, 2048]])?;
    let principal = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    let server = principal.required_object("PRINCIPAL")?;
    server.required_guid("PRINCIPAL")?;
    server.url().ok_or_else(|| incomplete("the PRINCIPAL has no ADDRESS of type URL"))?;
    check_revocation(content)
}

/// The keys that may revoke what the server issues; none with standard revocation.
#[must_use]
pub fn revocation_keys(certificate: &Certificate) -> Vec<&RsaPublicKey> {
    let points = certificate.revocation.iter().flat_map(|refresh| &refresh.points);
    points.filter_map(|point| point.key.as_deref()).collect()
}

fn check_revocation(content: &Content) -> Result<()> {
    let Some(refresh) = content.conditions.as_ref().and_then(|list| list.refresh.as_ref()) else { return Ok(()) };
    let are_authorities = refresh.points.iter().all(|point| point.object.kind() == REVOCATION && point.key.is_some());
    if !are_authorities || refresh.points.len() < 2 {
        return Err(incomplete("custom revocation does not name the issuer and at least one more authority"));
    }
    if content.issuer.as_ref().is_none_or(|issuer| refresh.points[0].key != issuer.key) {
        return Err(incomplete("the first revocation authority is not the issuer"));
    }
    Ok(())
}
