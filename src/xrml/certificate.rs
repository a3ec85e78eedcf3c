//! The form that all issuing certificates share: a principal with a key, and the right to issue for a time
//! (MS-RMPR 2.2.9.3).

use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{Id, Object, Principal};
use super::license::{Conditions, MAIN_RIGHTS, Refresh, Right, Work};
use super::markup::incomplete;
use super::text::Body;
use super::time::{Range, XrmlTime};
use crate::error::Result;
use crate::key::RsaPublicKey;

/// The right that makes a certificate an issuing one.
pub const ISSUE: &str = "ISSUE";
/// OBJECT type of authorities.
pub const AUTHORITY: &str = "DRM-Certificate-Authority";
/// OBJECT type of servers, the enrollment service among them.
pub const SERVER: &str = "MS-DRM-Server";
/// DESCRIPTOR type of authorities.
pub const CA_DESCRIPTOR: &str = "DRM-CA-Certificate";
/// DESCRIPTOR type of enrollment services and servers.
pub const LICENSOR_DESCRIPTOR: &str = "Server-Licensor-Certificate";

/// An issuing certificate, complete in all mandatory parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// VALIDITYTIME: described, but absent in every real one.
    pub validity: Option<Range>,
    /// DESCRIPTOR: type, and the certificate's GUID. WORK has the same object.
    pub descriptor: Object,
    /// ISSUER: what stands in PRINCIPAL of the issuer's certificate.
    pub issuer: Principal,
    /// PRINCIPAL: who may issue, with which key.
    pub principal: Principal,
    /// RANGETIME of the right to issue.
    pub range: Range,
    /// REFRESH of a server with custom revocation: who may revoke what it issues.
    pub revocation: Option<Refresh>,
}

/// What distinguishes one certificate from another with the same parties.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// GUID of the certificate, in braces.
    pub guid: String,
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// RANGETIME.
    pub range: Range,
}

impl Certificate {
    /// Puts a certificate together; the kinds' own modules choose descriptor, issuer and principal.
    pub(super) fn new(descriptor: &str, issuer: &Principal, principal: Principal, stamp: Stamp) -> Self {
        Certificate {
            issued_time: stamp.issued_time,
            validity: None,
            descriptor: Object::new(descriptor, Id::guid(stamp.guid)),
            issuer: issuer.as_issuer(),
            principal: Principal { internal_id: Some("1".into()), ..principal },
            range: stamp.range,
            revocation: None,
        }
    }

    /// Reads a BODY of any kind that has this form.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub(super) fn read(body: &Body) -> Result<Certificate> {
        let content = Content::read(body)?;
        let descriptor = Content::required(content.descriptor, "DESCRIPTOR")?;
        descriptor.required_guid("DESCRIPTOR")?;
        let issuer = Content::required(content.issuer, "ISSUER")?;
        issuer.required_object("ISSUER")?;
        issuer.required_key("ISSUER")?;
        let principal = Content::required(content.principal, "ISSUEDPRINCIPALS")?;
        principal.required_object("PRINCIPAL")?;
        principal.required_key("PRINCIPAL")?;
        let work = Content::required(content.work, "WORK")?;
        if work.object.as_ref().is_none_or(|object| !object.id.is_same(&descriptor.id)) {
            return Err(incomplete("WORK does not name the certificate of DESCRIPTOR"));
        }
        let range = issue_range(&work, &principal)?;
        Ok(Certificate {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            validity: content.validity,
            descriptor,
            issuer,
            principal,
            range,
            revocation: content.conditions.and_then(|conditions| conditions.refresh).map(|refresh| *refresh),
        })
    }

    /// Writes the BODY in the server's form.
    ///
    /// # Errors
    /// As reading it: what would not be accepted is not written.
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        if let Some(validity) = &self.validity {
            validity.write("VALIDITYTIME", &mut xml);
        }
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        write_principal("ISSUEDPRINCIPALS", &self.principal, &mut xml);
        issue_work(&self.descriptor, self.range, reference(&self.principal)).write(true, &mut xml);
        if let Some(refresh) = &self.revocation {
            Conditions { refresh: Some(Box::new(refresh.clone())), ..Conditions::default() }.write(true, &mut xml);
        }
        let body = end(xml)?;
        Certificate::read(&body)?;
        Ok(body)
    }

    /// The GUID of this certificate, in braces, letter case as written.
    #[must_use]
    pub fn guid(&self) -> &str {
        &self.descriptor.id.value
    }

    /// The public key of the principal.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`; never for a certificate that was read.
    pub fn key(&self) -> Result<&RsaPublicKey> {
        self.principal.required_key("PRINCIPAL")
    }

    /// Refuses other types of issuer and principal than a kind has.
    pub(super) fn check_types(&self, issuer: &str, principal: &str) -> Result<()> {
        for (whose, part, kind) in [("ISSUER", &self.issuer, issuer), ("PRINCIPAL", &self.principal, principal)] {
            if part.required_object(whose)?.kind() != kind {
                return Err(incomplete(format!("the OBJECT of {whose} is not of type {kind}")));
            }
        }
        Ok(())
    }

    /// Refuses a key of a size that the kind does not allow (MS-RMPR 2.2.9.3.1 to 2.2.9.3.3).
    pub(super) fn check_key_sizes(&self, issuer_bits: &[u32], principal_bits: &[u32]) -> Result<()> {
        for (whose, part, sizes) in
            [("ISSUER", &self.issuer, issuer_bits), ("PRINCIPAL", &self.principal, principal_bits)]
        {
            let bits = part.required_key(whose)?.bits();
            if !sizes.contains(&bits) {
                return Err(incomplete(format!("the key of {whose} has {bits} bits; allowed are {sizes:?}")));
            }
        }
        Ok(())
    }
}

/// The reference to a principal by its internal id.
pub(super) fn reference(principal: &Principal) -> Principal {
    Principal { internal_id: principal.internal_id.clone(), ..Principal::default() }
}

/// WORK of an issuing certificate; `access` is the reference to its principal, with a sealed key in a client's.
pub(super) fn issue_work(descriptor: &Object, range: Range, access: Principal) -> Work {
    let conditions = Conditions { ranges: vec![range], access: vec![access], ..Conditions::default() };
    Work {
        object: Some(descriptor.clone()),
        group: Some(MAIN_RIGHTS.into()),
        rights: vec![Right::new(ISSUE, conditions)],
        ..Work::default()
    }
}

/// The one RANGETIME of the one right to issue, given to the certificate's own principal.
pub(super) fn issue_range(work: &Work, principal: &Principal) -> Result<Range> {
    let mut rights = work.rights.iter().filter(|right| right.name == ISSUE && right.is_named);
    let (Some(right), None) = (rights.next(), rights.next()) else {
        return Err(incomplete("the certificate does not have one RIGHT of name ISSUE"));
    };
    let [range] = right.conditions.ranges[..] else {
        return Err(incomplete("the right to issue does not have one RANGETIME"));
    };
    match &right.conditions.access[..] {
        [holder] if holder.internal_id == principal.internal_id => Ok(range),
        _ => Err(incomplete("the right to issue is not given to the certificate's principal")),
    }
}
