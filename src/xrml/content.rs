//! The content of any BODY as one typed view: every kind takes from it what it must have (adrms_sdk, BODY).

use super::element::{DistributionPoint, Object, Principal};
use super::kind::LICENSE;
use super::license::{AuthenticatedData, Conditions, Refresh, Work};
use super::markup::{Element, incomplete, read_each, salvage_each};
use super::policy::PolicyList;
use super::text::Body;
use super::time::{Range, XrmlTime};
use super::weight;
use super::write::Xml;
use crate::error::{Error, Reason, Result};

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

    /// Reads the children of a BODY, or where that cannot be done, what of it can be read, with the reason.
    pub fn read_or_salvage(body: &Body) -> (Result<Content>, Result<()>) {
        match Content::read(body) {
            Ok(content) => (Ok(content), Ok(())),
            Err(fault) => (Content::salvage(body), Err(fault)),
        }
    }

    /// Reads what can be read of a document that cannot be read whole. What links it to others must be among that; of
    /// everything else, nothing is taken that is faulty, and nothing that stands twice and may stand once.
    ///
    /// # Errors
    /// As [`Content::read`], for what links it to others.
    fn salvage(body: &Body) -> Result<Content> {
        let root = body.element();
        weight::check(root)?;
        let single = |name: &str| root.optional(name).ok().flatten();
        Ok(Content {
            issued: root.optional("ISSUEDTIME")?.map(XrmlTime::read).transpose()?,
            validity: root.optional("VALIDITYTIME")?.map(Range::read).transpose()?,
            descriptor: single("DESCRIPTOR").and_then(|d| Object::read(d.required("OBJECT").ok()?).ok()),
            issuer: root.optional("ISSUER")?.map(Principal::read).transpose()?,
            points: salvage_each(root.all("DISTRIBUTIONPOINT"), DistributionPoint::read),
            principal: single_principal(root, "ISSUEDPRINCIPALS")?,
            work: single("WORK").map(Work::salvage),
            data: salvage_each(root.all("AUTHENTICATEDDATA"), AuthenticatedData::read),
            conditions: single("CONDITIONLIST").and_then(|list| Conditions::read(list.children()).ok()),
            federation: single_principal(root, "FEDERATIONPRINCIPALS").ok().flatten(),
            policies: salvage_each(root.all("POLICYLIST"), PolicyList::read),
        })
    }

    /// All conditions in it, those of each right among them.
    pub(super) fn all_conditions(&self) -> impl Iterator<Item = &Conditions> {
        let rights = self.work.iter().flat_map(|work| &work.rights).map(|right| &right.conditions);
        self.conditions_of_all().chain(rights)
    }

    /// The conditions that stand on the document as a whole.
    pub(super) fn conditions_of_all(&self) -> impl Iterator<Item = &Conditions> {
        let work = self.work.iter().flat_map(|work| [&work.conditions, &work.preconditions]);
        work.chain([&self.conditions]).flatten()
    }

    /// The names of the conditions that are told and not judged: those with a name of their own, and that the whole document
    /// is for certain people only.
    #[must_use]
    pub fn unjudged(&self) -> Vec<&str> {
        let named = self.all_conditions().flat_map(|conditions| &conditions.named);
        let access = self.conditions_of_all().any(|conditions| !conditions.access.is_empty());
        let mut names: Vec<_> = named.map(|one| one.name.as_str()).chain(access.then_some("ACCESS")).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The revocation lists that it names, with who signs them.
    pub fn refreshes(&self) -> impl Iterator<Item = &Refresh> {
        self.all_conditions().filter_map(|conditions| conditions.refresh.as_deref())
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

/// Ends a BODY and has it read back by the strict reader, as anybody's would be: what would not say the same is not written.
///
/// # Errors
/// Those of `read` and of [`Body::check_stable`], and `INVALID_ARGUMENT` if it reads otherwise than it was given.
pub(super) fn end<T: PartialEq>(mut xml: Xml, given: &T, read: impl Fn(&Body) -> Result<T>) -> Result<Body> {
    xml.close("BODY");
    let body = Body::read(&xml.into_string())?;
    body.check_stable()?;
    if read(&body)? != *given {
        return Err(Error::new(
            Reason::InvalidArgument,
            "the document cannot be written so that it reads as it was given",
        ));
    }
    Ok(body)
}
