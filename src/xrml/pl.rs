//! Publishing license: a content, its sealed key and its encrypted rights (MS-RMPR 2.2.9.7).

use super::content::{Content, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, EnablingBits, Object, Principal};
use super::kind::{Kind, RIGHTS_LABEL};
use super::license::{AuthenticatedData, Conditions, Work};
use super::markup::incomplete;
use super::policy::PolicyList;
use super::text::Body;
use super::time::{Range, XrmlTime};
use super::write::Xml;
use crate::error::Result;

/// AUTHENTICATEDDATA id of the rights data.
pub const RIGHTS_DATA: &str = "Encrypted-Rights-Data";
/// DISTRIBUTIONPOINT type of the address that a reader without rights is sent to; it stands after ISSUEDPRINCIPALS.
pub const REFERRAL: &str = "Referral-Info";

/// A publishing license, made by a client or by a server, signed or on its way to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishingLicense {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// VALIDITYTIME, where there is one.
    pub validity: Option<Range>,
    /// DESCRIPTOR: the template or policy, with its names in several languages.
    pub descriptor: Option<Object>,
    /// ISSUER: the client's or the server's principal; may be missing until a server signs.
    pub issuer: Option<Principal>,
    /// DISTRIBUTIONPOINTs, wherever they stood.
    pub points: Vec<DistributionPoint>,
    /// The server that can open the content key, with that key sealed to it.
    pub server: Principal,
    /// The content and its owner; no rights, which are encrypted.
    pub work: Work,
    /// CONDITIONLIST of the whole license: not among what authors write, and a bound on everything where it stands.
    pub conditions: Option<Conditions>,
    /// AUTHENTICATEDDATA in its order: the rights data once, applications' data any number of times.
    pub data: Vec<AuthenticatedData>,
    /// POLICYLISTs, while it is not signed.
    pub policies: Vec<PolicyList>,
}

impl PublishingLicense {
    /// Reads a BODY as a publishing license.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<PublishingLicense> {
        Kind::expect(&[Kind::Pl], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(PublishingLicense {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            validity: content.validity,
            descriptor: content.descriptor,
            issuer: content.issuer,
            points: content.points,
            server: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
            work: Content::required(content.work, "WORK")?,
            conditions: content.conditions,
            data: content.data,
            policies: content.policies,
        })
    }

    /// Writes the BODY. Points stand before the principal, where a reader is sent for more rights after it.
    ///
    /// # Errors
    /// As [`PublishingLicense::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = Xml::new();
        xml.open("BODY", &[("type", RIGHTS_LABEL), ("version", "3.0")]);
        xml.leaf("ISSUEDTIME", &[], &self.issued_time.to_string());
        if let Some(validity) = &self.validity {
            validity.write("VALIDITYTIME", &mut xml);
        }
        if let Some(descriptor) = &self.descriptor {
            write_descriptor(descriptor, &mut xml);
        }
        if let Some(issuer) = &self.issuer {
            issuer.write("ISSUER", &mut xml);
        }
        let (after, before): (Vec<_>, Vec<_>) = self.points.iter().partition(|point| point.object.kind() == REFERRAL);
        before.iter().for_each(|point| point.write(&mut xml));
        write_principal("ISSUEDPRINCIPALS", &self.server, &mut xml);
        after.iter().for_each(|point| point.write(&mut xml));
        self.work.write(false, &mut xml);
        if let Some(conditions) = &self.conditions {
            conditions.write(false, &mut xml);
        }
        self.data.iter().for_each(|data| data.write(&mut xml));
        self.policies.iter().for_each(|policy| policy.write(&mut xml));
        end(xml, self, PublishingLicense::read)
    }

    /// The content key, sealed to the server.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`; never for a license that was read.
    pub fn enabling(&self) -> Result<&EnablingBits> {
        self.server.enabling.as_deref().ok_or_else(|| incomplete("PRINCIPAL has no ENABLINGBITS"))
    }

    /// The encrypted rights data, base64 as written.
    #[must_use]
    pub fn rights_data(&self) -> &str {
        self.data.iter().find(|data| data.id == RIGHTS_DATA).map_or("", |data| data.value.as_str())
    }

    /// The ID of the content.
    #[must_use]
    pub fn content_id(&self) -> &str {
        self.work.object.as_ref().map_or("", |object| object.id.value.as_str())
    }
}

/// Refuses a view that is no publishing license.
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    let server = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    server.required_object("PRINCIPAL")?;
    server.required_key("PRINCIPAL")?;
    if server.enabling.is_none() {
        return Err(incomplete("PRINCIPAL has no ENABLINGBITS"));
    }
    let work = Content::required(content.work.as_ref(), "WORK")?;
    work.object.as_ref().ok_or_else(|| incomplete("WORK has no OBJECT"))?;
    if content.data.iter().filter(|data| data.id == RIGHTS_DATA).count() != 1 {
        return Err(incomplete("the license does not have one AUTHENTICATEDDATA of rights data"));
    }
    Ok(())
}

/// The text to which the sealed key of a received license is bound: ISSUEDPRINCIPALS as received, without ENABLINGBITS,
/// which cannot be part of its own hash.
///
/// # Errors
/// `DOCUMENT_INCOMPLETE`.
pub fn bound_text(body: &Body) -> Result<String> {
    let principals = body.element().required("ISSUEDPRINCIPALS")?;
    let enabling = principals.required("PRINCIPAL")?.required("ENABLINGBITS")?;
    Ok(principals.outer().replacen(enabling.outer(), "", 1))
}

/// The same for a license that is about to be written: seal to this text, then put the sealed key into `server`.
#[must_use]
pub fn bound_text_of(server: &Principal) -> String {
    let mut xml = Xml::new();
    write_principal("ISSUEDPRINCIPALS", &Principal { enabling: None, ..server.clone() }, &mut xml);
    xml.into_string()
}
