//! The form that all issuing certificates share: a principal with a key, and the right to issue for a time
//! (MS-RMPR 2.2.9.3).

use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{Id, Object, Principal};
use super::kind::Kind;
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

    /// Takes a certificate out of a view that its kind has checked.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`.
    pub(super) fn of(content: Content) -> Result<Certificate> {
        Ok(Certificate {
            range: issue_range(&content)?,
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            validity: content.validity,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            principal: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
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
        end(xml, self, |body| Content::read(body).and_then(|content| check(&content).and(Certificate::of(content))))
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
}

/// Reads a certificate of one of some kinds, checked by its own module.
///
/// # Errors
/// `DOCUMENT_KIND`, and those of `check`.
pub(super) fn read(body: &Body, kinds: &[Kind], check: impl Fn(&Content) -> Result<()>) -> Result<Certificate> {
    Kind::expect(kinds, body)?;
    let content = Content::read(body)?;
    check(&content)?;
    Certificate::of(content)
}

/// Refuses a view that lacks a part which every issuing certificate must have (MS-RMPR 2.2.9.3).
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    let descriptor = Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?;
    descriptor.required_guid("DESCRIPTOR")?;
    let [issuer, principal] = parties(content)?;
    issuer.required_object("ISSUER")?;
    issuer.required_key("ISSUER")?;
    principal.required_object("PRINCIPAL")?;
    principal.required_key("PRINCIPAL")?;
    check_work(content)?;
    issue_range(content).map(|_| ())
}

/// Refuses a WORK that is not about the certificate itself.
pub(super) fn check_work(content: &Content) -> Result<()> {
    let work = Content::required(content.work.as_ref(), "WORK")?;
    match (&work.object, &content.descriptor) {
        (Some(object), Some(descriptor)) if object.id.is_same(&descriptor.id) && object.kind == descriptor.kind => {
            Ok(())
        }
        _ => Err(incomplete("WORK does not name the certificate of DESCRIPTOR")),
    }
}

/// Refuses other types of issuer and principal than a kind has.
pub(super) fn check_types(content: &Content, types: [&str; 2]) -> Result<()> {
    for ((whose, part), kind) in PARTIES.into_iter().zip(parties(content)?).zip(types) {
        if part.required_object(whose)?.kind() != kind {
            return Err(incomplete(format!("the OBJECT of {whose} is not of type {kind}")));
        }
    }
    Ok(())
}

/// Refuses a key of a size that the kind does not allow (MS-RMPR 2.2.9.3.1 to 2.2.9.3.3).
pub(super) fn check_key_sizes(content: &Content, sizes: [&[u32]; 2]) -> Result<()> {
    for ((whose, part), sizes) in PARTIES.into_iter().zip(parties(content)?).zip(sizes) {
        let bits = part.required_key(whose)?.bits();
        if !sizes.contains(&bits) {
            return Err(incomplete(format!("the key of {whose} has {bits} bits; allowed are {sizes:?}")));
        }
    }
    Ok(())
}

/// The two parties of a certificate in messages.
const PARTIES: [&str; 2] = ["ISSUER", "PRINCIPAL"];

fn parties(content: &Content) -> Result<[&Principal; 2]> {
    let issuer = Content::required(content.issuer.as_ref(), "ISSUER")?;
    Ok([issuer, Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?])
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

/// The one RANGETIME of the one right to issue, given to the certificate's own principal. A certificate on which stands any
/// condition beside that, other than where revocation lists are, issues nothing.
pub(super) fn issue_range(content: &Content) -> Result<Range> {
    let right = issue_right(content)?;
    let [range] = right.conditions.ranges[..] else {
        return Err(incomplete("the right to issue does not have one RANGETIME"));
    };
    let work = content.work.as_ref();
    let around = [work.and_then(|work| work.conditions.as_ref()), content.conditions.as_ref()];
    let is_bound = work.is_some_and(|work| work.preconditions.is_some())
        || right.conditions.interval.is_some()
        || right.conditions.has_others()
        || !around.into_iter().flatten().all(Conditions::is_revocation_only);
    if is_bound {
        return Err(incomplete("the right to issue has conditions beside its time and its principal"));
    }
    let principal = content.principal.as_ref();
    match &right.conditions.access[..] {
        [holder] if principal.is_some_and(|principal| principal.internal_id == holder.internal_id) => Ok(range),
        _ => Err(incomplete("the right to issue is not given to the certificate's principal")),
    }
}

/// The one right to issue.
pub(super) fn issue_right(content: &Content) -> Result<&Right> {
    let rights = content.work.iter().flat_map(|work| &work.rights);
    let mut rights = rights.filter(|right| right.name == ISSUE && right.is_named);
    match (rights.next(), rights.next()) {
        (Some(right), None) => Ok(right),
        _ => Err(incomplete("the certificate does not have one RIGHT of name ISSUE")),
    }
}
