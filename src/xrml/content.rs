//! The content of any BODY as one typed view: every kind takes from it what it must have (adrms_sdk, BODY).

use super::element::{DistributionPoint, Object, Principal};
use super::kind::{Kind, LICENSE};
use super::license::{AuthenticatedData, Conditions, PolicyList, Work};
use super::markup::{Element, incomplete, read_each};
use super::text::Body;
use super::time::{Range, XrmlTime};
use super::weight;
use super::write::Xml;
use crate::error::Result;

/// The children of BODY. Elements are taken by name in any order; one that may stand once and stands twice is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// ISSUEDTIME.
    pub issued: Option<XrmlTime>,
    /// VALIDITYTIME.
    pub validity: Option<Range>,
    /// DESCRIPTOR/OBJECT.
    pub descriptor: Option<Object>,
    /// ISSUER.
    pub issuer: Option<Principal>,
    /// DISTRIBUTIONPOINTs, wherever they stand.
    pub points: Vec<DistributionPoint>,
    /// ISSUEDPRINCIPALS/PRINCIPAL.
    pub principal: Option<Principal>,
    /// WORK.
    pub work: Option<Work>,
    /// AUTHENTICATEDDATA.
    pub data: Vec<AuthenticatedData>,
    /// CONDITIONLIST of the whole document.
    pub conditions: Option<Conditions>,
    /// FEDERATIONPRINCIPALS/PRINCIPAL.
    pub federation: Option<Principal>,
    /// POLICYLISTs.
    pub policies: Vec<PolicyList>,
}

impl Content {
    /// Reads the children of a BODY.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`, with the element.
    pub fn read(body: &Body) -> Result<Content> {
        let root = body.element();
        weight::check(root)?;
        Ok(Content {
            issued: root.optional("ISSUEDTIME")?.map(XrmlTime::read).transpose()?,
            validity: root.optional("VALIDITYTIME")?.map(Range::read).transpose()?,
            descriptor: root.optional("DESCRIPTOR")?.map(|d| Object::read(d.required("OBJECT")?)).transpose()?,
            issuer: root.optional("ISSUER")?.map(Principal::read).transpose()?,
            points: read_each(root.all("DISTRIBUTIONPOINT"), DistributionPoint::read)?,
            principal: single_principal(root, "ISSUEDPRINCIPALS")?,
            work: root.optional("WORK")?.map(Work::read).transpose()?,
            data: read_each(root.all("AUTHENTICATEDDATA"), AuthenticatedData::read)?,
            conditions: root.optional("CONDITIONLIST")?.map(|list| Conditions::read(list.children())).transpose()?,
            federation: single_principal(root, "FEDERATIONPRINCIPALS")?,
            policies: read_each(root.all("POLICYLIST"), PolicyList::read)?,
        })
    }

    /// Reads only what links a document to others: for a document whose other parts have a form that is not known here.
    /// WORK is among it where it gives the right to issue.
    ///
    /// # Errors
    /// As [`Content::read`], for those parts.
    pub(super) fn read_links(body: &Body) -> Result<Content> {
        let root = body.element();
        weight::check(root)?;
        let descriptor = root.optional("DESCRIPTOR")?.map(|d| d.required("OBJECT")).transpose()?;
        let work = root.optional("WORK")?.map(Work::read).transpose();
        let is_certificate = Kind::of(body).is_ok_and(Kind::issues);
        Ok(Content {
            issued: root.optional("ISSUEDTIME")?.map(XrmlTime::read).transpose()?,
            validity: root.optional("VALIDITYTIME")?.map(Range::read).transpose()?,
            descriptor: descriptor.and_then(|object| Object::read(object).ok()),
            issuer: root.optional("ISSUER")?.map(Principal::read).transpose()?,
            principal: single_principal(root, "ISSUEDPRINCIPALS")?,
            work: if is_certificate { work? } else { None },
            ..Content::default()
        })
    }

    /// Takes a part that a kind must have out of the view.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`, naming the missing element.
    pub(super) fn required<T>(part: Option<T>, name: &str) -> Result<T> {
        part.ok_or_else(|| incomplete(format!("BODY has no {name}")))
    }
}

fn single_principal(root: Element<'_>, name: &str) -> Result<Option<Principal>> {
    let Some(list) = root.optional(name)? else { return Ok(None) };
    Ok(Some(Principal::read(list.required("PRINCIPAL")?)?))
}

/// Begins a BODY of type LICENSE with its ISSUEDTIME.
pub(super) fn begin_license(issued: XrmlTime) -> Xml {
    let mut xml = Xml::new();
    xml.open("BODY", &[("type", LICENSE), ("version", "3.0")]);
    xml.leaf("ISSUEDTIME", &[], &issued.to_string());
    xml
}

/// Writes DESCRIPTOR.
pub(super) fn write_descriptor(descriptor: &Object, xml: &mut Xml) {
    xml.open("DESCRIPTOR", &[]);
    descriptor.write(xml);
    xml.close("DESCRIPTOR");
}

/// Writes ISSUEDPRINCIPALS or FEDERATIONPRINCIPALS.
pub(super) fn write_principal(list: &str, principal: &Principal, xml: &mut Xml) {
    xml.open(list, &[]);
    principal.write("PRINCIPAL", xml);
    xml.close(list);
}

/// Ends a BODY and has it read back by the strict reader, as anybody's would be.
pub(super) fn end(mut xml: Xml) -> Result<Body> {
    xml.close("BODY");
    Body::read(&xml.into_string())
}
