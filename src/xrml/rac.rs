//! Rights account certificate: binds a user's key to a machine (MS-RMPR 2.2.9.5).

use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, Object, Principal};
use super::kind::Kind;
use super::markup::incomplete;
use super::text::Body;
use super::time::{Range, XrmlTime};
use crate::error::Result;

/// A rights account certificate, or a user's public key certificate, which is the same without `machine`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountCertificate {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// VALIDITYTIME. It should be there (MS-RMPR 2.2.9.5); a certificate without one is good at no time.
    pub validity: Option<Range>,
    /// DESCRIPTOR, with the certificate's GUID.
    pub descriptor: Object,
    /// ISSUER: the server.
    pub issuer: Principal,
    /// Where users are certified.
    pub points: Vec<DistributionPoint>,
    /// The user: object of type `Group-Identity`, public key, levels.
    pub user: Principal,
    /// FEDERATIONPRINCIPALS: the machine, with the user's private key sealed to its key.
    pub machine: Option<Principal>,
}

impl AccountCertificate {
    /// Reads a BODY as a rights account certificate or a user's public key certificate.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<AccountCertificate> {
        Kind::expect(&[Kind::Rac, Kind::UserKey], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(AccountCertificate {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            validity: content.validity,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            points: content.points,
            user: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
            machine: content.federation,
        })
    }

    /// Writes the BODY in the server's form.
    ///
    /// # Errors
    /// As [`AccountCertificate::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        if let Some(validity) = &self.validity {
            validity.write("VALIDITYTIME", &mut xml);
        }
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        self.points.iter().for_each(|point| point.write(&mut xml));
        write_principal("ISSUEDPRINCIPALS", &self.user, &mut xml);
        if let Some(machine) = &self.machine {
            write_principal("FEDERATIONPRINCIPALS", machine, &mut xml);
        }
        end(xml, self, AccountCertificate::read)
    }
}

/// Refuses a view that is neither a rights account certificate nor a user's public key certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?;
    let issuer = Content::required(content.issuer.as_ref(), "ISSUER")?;
    issuer.required_object("ISSUER")?;
    issuer.required_key("ISSUER")?;
    check_user(content)?;
    if content.federation.as_ref().is_some_and(|machine| machine.enabling.is_none()) {
        return Err(incomplete("FEDERATIONPRINCIPALS has no ENABLINGBITS"));
    }
    Ok(())
}

/// Refuses a principal that is not a user with a key.
pub(super) fn check_user(content: &Content) -> Result<()> {
    let user = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    if user.required_object("PRINCIPAL")?.kind() != "Group-Identity" {
        return Err(incomplete("the PRINCIPAL is not of type Group-Identity"));
    }
    user.required_key("PRINCIPAL").map(|_| ())
}
