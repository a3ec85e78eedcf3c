//! Revocation lists: what they name, who may revoke what, and their effect on chains (manual "Creating revocation lists").

use std::cell::LazyCell;

use time::OffsetDateTime;

use super::chain::{Finding, Link};
use super::content::{Content, begin_license, end, write_descriptor};
use super::element::{Id, Object, Principal};
use super::kind::Kind;
use super::license::Refresh;
use super::markup::{Element, incomplete, read_each};
use super::signature::{self, Digest};
use super::text::{Body, Document};
use super::time::XrmlTime;
use super::value::{read_key, write_key};
use super::write::Xml;
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, RsaPublicKey};

/// One REVOKE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// A document by the GUID of its DESCRIPTOR.
    LicenseId(Object),
    /// A document by the digest of its BODY. SHA-1 in the manual; SHA-256 is what we define for Mode 2.
    LicenseHash(Digest),
    /// All documents issued under a key.
    IssuerKey(RsaPublicKey),
    /// All documents of an issuer by its ID.
    IssuerId(Object),
    /// All documents issued to a key.
    PrincipalKey(RsaPublicKey),
    /// All documents issued to a user by its ID.
    PrincipalId(Object),
    /// All licenses for a content by its ID.
    ContentId(Object),
    /// Of no known category and type, or with an ID that names nothing, as received.
    Unknown(String),
}

/// A revocation list, complete in all mandatory parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// ISSUEDTIME: its age counts from here.
    pub issued_time: XrmlTime,
    /// DESCRIPTOR, with the list's GUID.
    pub descriptor: Object,
    /// ISSUER: a name of the authority's own choice, and the key that signs.
    pub issuer: Principal,
    /// What is revoked.
    pub entries: Vec<Revoke>,
}

impl RevocationList {
    /// Reads a BODY as a revocation list.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<RevocationList> {
        Kind::expect(&[Kind::RevocationList], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(RevocationList {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            entries: read_entries(body)?,
        })
    }

    /// Reads a list whose signature holds under the key that it names itself. What that key may revoke is another
    /// question, which [`apply`] answers.
    ///
    /// # Errors
    /// As [`RevocationList::read`] and [`signature::verify`].
    pub fn verified(document: &Document) -> Result<RevocationList> {
        let list = RevocationList::read(document.body())?;
        signature::verify(document, list.issuer.required_key("ISSUER")?)?;
        Ok(list)
    }

    /// Writes the BODY.
    ///
    /// # Errors
    /// As [`RevocationList::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        xml.open("REVOCATIONLIST", &[]);
        self.entries.iter().for_each(|entry| write_revoke(entry, &mut xml));
        xml.close("REVOCATIONLIST");
        end(xml, self, RevocationList::read)
    }

    /// How many of its entries are not understood. What they revoke cannot be told.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry, Revoke::Unknown(_))).count()
    }

    fn names(&self, document: &Document, content: &Content) -> bool {
        // A list may name thousands of digests; the document is hashed once for each function.
        let sha1 = LazyCell::new(|| signature::digest(document.body(), Hash::Sha1));
        let sha256 = LazyCell::new(|| signature::digest(document.body(), Hash::Sha256));
        let (issuer, principal) = (content.issuer.as_ref(), content.principal.as_ref());
        let is_object = |object: Option<&Object>, named: &Object| object.is_some_and(|o| o.id.is_same(&named.id));
        self.entries.iter().any(|entry| match entry {
            Revoke::LicenseId(named) => is_object(content.descriptor.as_ref(), named),
            Revoke::LicenseHash(named) if named.hash() == Hash::Sha1 => *sha1 == *named,
            Revoke::LicenseHash(named) => *sha256 == *named,
            Revoke::IssuerKey(named) => issuer.and_then(|p| p.key.as_deref()) == Some(named),
            Revoke::IssuerId(named) => is_object(issuer.and_then(|p| p.object.as_ref()), named),
            Revoke::PrincipalKey(named) => principal.and_then(|p| p.key.as_deref()) == Some(named),
            Revoke::PrincipalId(named) => is_object(principal.and_then(|p| p.object.as_ref()), named),
            Revoke::ContentId(named) => is_object(content.work.as_ref().and_then(|w| w.object.as_ref()), named),
            Revoke::Unknown(_) => false,
        })
    }
}

/// Refuses a view that is no revocation list; its entries are not part of the view.
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?;
    Content::required(content.issuer.as_ref(), "ISSUER")?.required_key("ISSUER").map(|_| ())
}

/// The entries of a list.
pub(super) fn read_entries(body: &Body) -> Result<Vec<Revoke>> {
    read_each(body.element().required("REVOCATIONLIST")?.all("REVOKE"), read_revoke)
}

fn read_revoke(revoke: Element<'_>) -> Result<Revoke> {
    let named = |make: fn(Object) -> Revoke| {
        let object = Object::read(revoke.required("OBJECT")?)?;
        Ok::<_, Error>(if is_usable(&object.id) { make(object) } else { Revoke::Unknown(revoke.outer().to_owned()) })
    };
    let key = || read_key(revoke.required("PUBLICKEY")?);
    Ok(match (&*revoke.required_attribute("category")?, &*revoke.required_attribute("type")?) {
        ("license", "license-id") => named(Revoke::LicenseId)?,
        ("license", "license-hash") => Revoke::LicenseHash(Digest::read(revoke.required("DIGEST")?)?),
        ("license", "issuer-key") => Revoke::IssuerKey(key()?),
        ("license", "issuer-id") => named(Revoke::IssuerId)?,
        ("principal", "principal-key") => Revoke::PrincipalKey(key()?),
        ("principal", "principal-id") => named(Revoke::PrincipalId)?,
        ("content", "content-id") => named(Revoke::ContentId)?,
        _ => Revoke::Unknown(revoke.outer().to_owned()),
    })
}

/// Whether an ID can name anything: none, or one that is not in its form, is that of no document.
fn is_usable(id: &Id) -> bool {
    !id.value.is_empty() && id.value.trim() == id.value && (id.kind != "MS-GUID" || id.is_guid())
}

fn write_revoke(entry: &Revoke, xml: &mut Xml) {
    let (category, kind) = match entry {
        Revoke::LicenseId(_) => ("license", "license-id"),
        Revoke::LicenseHash(_) => ("license", "license-hash"),
        Revoke::IssuerKey(_) => ("license", "issuer-key"),
        Revoke::IssuerId(_) => ("license", "issuer-id"),
        Revoke::PrincipalKey(_) => ("principal", "principal-key"),
        Revoke::PrincipalId(_) => ("principal", "principal-id"),
        Revoke::ContentId(_) => ("content", "content-id"),
        Revoke::Unknown(received) => return xml.received(received),
    };
    xml.open("REVOKE", &[("category", category), ("type", kind)]);
    match entry {
        Revoke::LicenseId(object) | Revoke::IssuerId(object) => object.write(xml),
        Revoke::PrincipalId(object) | Revoke::ContentId(object) => object.write(xml),
        Revoke::LicenseHash(digest) => digest.write(false, xml),
        Revoke::IssuerKey(key) | Revoke::PrincipalKey(key) => write_key(key, xml),
        Revoke::Unknown(_) => {}
    }
    xml.close("REVOKE");
}

/// Says of each document of a checked chain whether no list revokes it: `REVOKED` where one does, or the error for which
/// that cannot be judged.
///
/// A list counts for a document if its key is that of the document's issuer, or one that the document's own conditions
/// name, or if it counts for the certificate above: who may take the certificate away may take less. Whatever hangs below
/// a revoked certificate is revoked with it. An entry that is not understood may name anything. Of a document that cannot
/// be read whole, only what can be read is looked at, so it is never said to be good. The lists' signatures must have been
/// verified.
#[must_use]
pub fn apply(lists: &[RevocationList], documents: &[Document], findings: &[Finding]) -> Vec<Result<()>> {
    let mut outcomes: Vec<Result<()>> = vec![Ok(()); findings.len()];
    let mut counting: Vec<Vec<usize>> = vec![Vec::new(); findings.len()];
    for (at, finding) in findings.iter().enumerate().rev().filter(|_| !lists.is_empty()) {
        let content = match &finding.content {
            Ok(content) => content,
            Err(fault) => {
                outcomes[at] = Err(unjudged(fault));
                continue;
            }
        };
        let issuer = if let Link::Document(issuer) = finding.link { Some(issuer) } else { None };
        let keys = authorities(content);
        counting[at] = (0..lists.len())
            .filter(|list| {
                let key = lists[*list].issuer.key.as_deref();
                keys.iter().any(|k| Some(*k) == key) || issuer.is_some_and(|above| counting[above].contains(list))
            })
            .collect();
        let naming = counting[at].iter().map(|list| &lists[*list]).find(|list| list.names(&documents[at], content));
        outcomes[at] = match (naming, issuer.map(|above| (above, &outcomes[above]))) {
            (Some(list), _) => {
                let message = format!("revoked by the list of {} ({})", list.issued_time, list.descriptor.id.value);
                Err(Error::new(Reason::Revoked, message))
            }
            (None, Some((above, Err(fault)))) if fault.reason() == Reason::Revoked => {
                Err(Error::new(Reason::Revoked, format!("document {} above it is revoked", above + 1)))
            }
            (None, Some((above, Err(fault)))) => {
                Err(Error::new(fault.reason(), format!("cannot be judged: document {} above it cannot", above + 1)))
            }
            (None, _) if counting[at].iter().any(|list| lists[*list].unknown() > 0) => {
                let message = "cannot be judged: a list has an entry of unknown category or type, or with an ID that names nothing";
                Err(Error::new(Reason::DocumentIncomplete, message)
                    .hint("Look at it with keyward show, and get a list that says what it means"))
            }
            (None, _) if finding.form.is_ok() => Ok(()),
            // What is missing in its form is nothing that lists go by, unless it could not be read.
            (None, _) => Content::read(documents[at].body()).map(|_| ()).map_err(|fault| unjudged(&fault)),
        };
    }
    outcomes
}

fn unjudged(fault: &Error) -> Error {
    fault.clone().while_doing("cannot be judged")
}

/// The keys that may revoke a document by itself.
fn authorities(content: &Content) -> Vec<&RsaPublicKey> {
    let named = content.refreshes().flat_map(|refresh| &refresh.points).filter_map(|point| point.key.as_deref());
    content.issuer.iter().filter_map(|issuer| issuer.key.as_deref()).chain(named).collect()
}

/// Whether a document is a license that demands lists. Those that a server's certificate names may revoke it, and need not
/// be there.
#[must_use]
pub fn demands(finding: &Finding) -> bool {
    let is_license = finding.kind.as_ref().is_ok_and(|kind| matches!(kind, Kind::Pl | Kind::Ul));
    is_license && finding.content.as_ref().is_ok_and(|content| content.refreshes().next().is_some())
}

/// Refuses a license that demands lists of which one is missing, or at a moment is too old; without a moment, their age is
/// not judged.
///
/// # Errors
/// As [`require_fresh`].
pub fn require_demanded(finding: &Finding, lists: &[RevocationList], moment: Option<OffsetDateTime>) -> Result<()> {
    let content = finding.content.as_ref().map_err(Error::clone)?;
    let mut refreshes = content.refreshes().filter(|_| demands(finding));
    refreshes.try_for_each(|refresh| require_fresh(refresh, lists, moment))
}

/// Refuses to go on where a list that is demanded is missing, or at a moment is too old.
///
/// # Errors
/// `CHAIN_INVALID`.
pub fn require_fresh(refresh: &Refresh, lists: &[RevocationList], moment: Option<OffsetDateTime>) -> Result<()> {
    if refresh.points.is_empty() {
        return Err(Error::new(Reason::ChainInvalid, "the license demands a revocation list and does not say whose"));
    }
    for point in &refresh.points {
        let key = point.key.as_ref().ok_or_else(|| incomplete("a revocation point has no PUBLICKEY"))?;
        let issued =
            lists.iter().filter(|list| list.issuer.key.as_ref() == Some(key)).map(|list| list.issued_time).max();
        let Some(issued) = issued else {
            return Err(Error::new(Reason::ChainInvalid, "a revocation list that the license demands is not at hand"));
        };
        let is_over = |moment: OffsetDateTime, length| moment - issued.moment() >= length;
        if moment.zip(refresh.interval.length()).is_some_and(|(moment, length)| is_over(moment, length)) {
            let message = format!("the revocation list of {issued} is older than the license allows");
            return Err(Error::new(Reason::ChainInvalid, message).hint("Get the newest list from its address"));
        }
    }
    Ok(())
}
