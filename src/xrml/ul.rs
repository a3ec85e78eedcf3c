//! Use license: what one user may do with one content (MS-RMPR 2.2.9.9).

use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, Object, Principal};
use super::kind::Kind;
use super::license::{AuthenticatedData, Conditions, PolicyList, Right, Work};
use super::markup::incomplete;
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
        Kind::Ul.expect(body)?;
        let content = Content::read(body)?;
        let license = UseLicense {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            licensee: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
            points: content.points,
            work: Content::required(content.work, "WORK")?,
            conditions: content.conditions,
            policies: content.policies,
            data: content.data,
        };
        license.check()?;
        Ok(license)
    }

    fn check(&self) -> Result<()> {
        self.descriptor.required_guid("DESCRIPTOR")?;
        self.issuer.required_object("ISSUER")?.required_guid("ISSUER")?;
        self.issuer.required_key("ISSUER")?;
        self.licensee.required_object("PRINCIPAL")?;
        self.licensee.required_key("PRINCIPAL")?;
        self.work.object.as_ref().ok_or_else(|| incomplete("WORK has no OBJECT"))?;
        self.work.owner.as_ref().ok_or_else(|| incomplete("WORK names no OWNER in METADATA"))?;
        if self.work.rights.is_empty() {
            return Err(incomplete("WORK grants no right"));
        }
        for right in &self.work.rights {
            let named: Vec<_> = right.conditions.access.iter().map(|principal| &principal.internal_id).collect();
            if named.is_empty() || named.iter().any(|id| **id != self.licensee.internal_id) {
                return Err(incomplete(format!("the right {} is not given to the license's principal", right.name)));
            }
        }
        Ok(())
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
        let body = end(xml)?;
        UseLicense::read(&body)?;
        Ok(body)
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
