//! Use license: what one user may do with one content (MS-RMPR 2.2.9.9).

use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, Object, Principal};
use super::kind::Kind;
use super::license::{AuthenticatedData, Conditions, Right, Work};
use super::markup::incomplete;
use super::policy::PolicyList;
use super::text::Body;
use super::time::XrmlTime;
use crate::error::Result;

/// A use license, complete in all mandatory parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseLicense {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// DESCRIPTOR: type `Content-License` or none, and the license's GUID.
    pub descriptor: Object,
    /// ISSUER: the licensing server, with object and public key.
    pub issuer: Principal,
    /// The user of ISSUEDPRINCIPALS, with object and public key.
    pub licensee: Principal,
    /// Where to ask for more rights.
    pub points: Vec<DistributionPoint>,
    /// The content, its owner and the rights; at least one right.
    pub work: Work,
    /// Conditions on the whole license: excluded versions of the operating system.
    pub conditions: Option<Conditions>,
    /// Applications shut out or let in.
    pub policies: Vec<PolicyList>,
    /// An application's own data.
    pub data: Vec<AuthenticatedData>,
}

impl UseLicense {
    /// Reads a BODY as a use license.
    ///
    /// # Errors
    /// `DOCUMENT_KIND` naming what it is instead; `DOCUMENT_INCOMPLETE` for a mandatory part that is missing, doubled or
    /// impossible; `DOCUMENT_DATES` for a date that is none or a range that ends before it begins.
    pub fn read(body: &Body) -> Result<UseLicense> {
        Kind::expect(&[Kind::Ul], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(UseLicense {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            licensee: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
            points: content.points,
            work: Content::required(content.work, "WORK")?,
            conditions: content.conditions,
            policies: content.policies,
            data: content.data,
        })
    }

    /// Writes the BODY in the server's form. Reading it gives this license again.
    ///
    /// # Errors
    /// As [`UseLicense::read`]: a license that would not be accepted is not written.
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        write_principal("ISSUEDPRINCIPALS", &self.licensee, &mut xml);
        self.points.iter().for_each(|point| point.write(&mut xml));
        self.work.write(false, &mut xml);
        if let Some(conditions) = &self.conditions {
            conditions.write(false, &mut xml);
        }
        self.policies.iter().for_each(|policy| policy.write(&mut xml));
        self.data.iter().for_each(|data| data.write(&mut xml));
        end(xml, self, UseLicense::read)
    }

    /// The GUID of this license, in braces, letter case as written.
    #[must_use]
    pub fn guid(&self) -> &str {
        &self.descriptor.id.value
    }

    /// The ID of the content.
    #[must_use]
    pub fn content_id(&self) -> &str {
        self.work.object.as_ref().map_or("", |object| object.id.value.as_str())
    }

    /// The owner of the content.
    #[must_use]
    pub fn owner(&self) -> Option<&Object> {
        self.work.owner.as_ref()
    }

    /// The rights, each with its conditions; at least one.
    #[must_use]
    pub fn rights(&self) -> &[Right] {
        &self.work.rights
    }
}

/// Refuses a view that is no use license. Its owner need not be named, and a client's own license is issued by a user
/// (MS-RMPR 2.2.9.9).
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?.required_guid("DESCRIPTOR")?;
    let issuer = Content::required(content.issuer.as_ref(), "ISSUER")?;
    issuer.required_object("ISSUER")?;
    issuer.required_key("ISSUER")?;
    let licensee = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    licensee.required_object("PRINCIPAL")?;
    licensee.required_key("PRINCIPAL")?;
    let work = Content::required(content.work.as_ref(), "WORK")?;
    work.object.as_ref().ok_or_else(|| incomplete("WORK has no OBJECT"))?;
    if work.rights.is_empty() {
        return Err(incomplete("WORK grants no right"));
    }
    for right in &work.rights {
        let mut holders = right.conditions.access.iter().map(|principal| &principal.internal_id);
        if right.conditions.access.is_empty() || holders.any(|id| *id != licensee.internal_id) {
            return Err(incomplete(format!("the right {} is not given to the license's principal", right.name)));
        }
        if !right.has_enabling_bits() {
            return Err(incomplete(format!("the right {} has no ENABLINGBITS", right.name)));
        }
    }
    Ok(())
}
