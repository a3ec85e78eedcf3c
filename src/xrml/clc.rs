//! Client licensor certificate: lets a user sign publishing licenses offline (MS-RMPR 2.2.9.6).

use super::certificate::{self, issue_range, issue_right, issue_work, reference};
use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, EnablingBits, Object, Principal};
use super::kind::Kind;
use super::markup::incomplete;
use super::rac;
use super::text::Body;
use super::time::{Range, XrmlTime};
use crate::error::Result;

/// A client licensor certificate, complete in all mandatory parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// DESCRIPTOR, with the certificate's GUID. WORK has the same object.
    pub descriptor: Object,
    /// ISSUER: the server.
    pub issuer: Principal,
    /// Where licenses for what the user publishes are asked for.
    pub points: Vec<DistributionPoint>,
    /// The user, with the key that signs offline.
    pub user: Principal,
    /// RANGETIME: the validity of the user's account certificate.
    pub range: Range,
    /// The private key, sealed to the user's account key.
    pub enabling: EnablingBits,
}

impl ClientCertificate {
    /// Reads a BODY as a client licensor certificate.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<ClientCertificate> {
        Kind::expect(&[Kind::Clc], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(ClientCertificate {
            range: issue_range(&content)?,
            enabling: sealed(&content)?.clone(),
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            points: content.points,
            user: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
        })
    }

    /// Writes the BODY in the server's form.
    ///
    /// # Errors
    /// As [`ClientCertificate::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        self.points.iter().for_each(|point| point.write(&mut xml));
        write_principal("ISSUEDPRINCIPALS", &self.user, &mut xml);
        let access = Principal { enabling: Some(Box::new(self.enabling.clone())), ..reference(&self.user) };
        issue_work(&self.descriptor, self.range, access).write(true, &mut xml);
        end(xml, self, ClientCertificate::read)
    }
}

/// Refuses a view that is no such certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    certificate::check(content)?;
    rac::check_user(content)?;
    sealed(content).map(|_| ())
}

/// The private key, which comes with the right to issue.
fn sealed(content: &Content) -> Result<&EnablingBits> {
    let bits = issue_right(content)?.conditions.access.iter().find_map(|principal| principal.enabling.as_deref());
    bits.ok_or_else(|| incomplete("ACCESS has no ENABLINGBITS"))
}
