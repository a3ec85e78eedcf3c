//! Chains: who issued what, whether the links hold, and how far the trust reaches (MS-RMPR 2.2.9.2).

use std::fmt;
use std::str::FromStr;

use time::{Duration, OffsetDateTime};

use super::certificate::{AUTHORITY, issue_range};
use super::content::Content;
use super::element::Principal;
use super::form;
use super::kind::Kind;
use super::rights::OWNER;
use super::signature;
use super::text::Document;
use super::unknown;
use super::value::ModulusLe;
use crate::error::{Error, Reason, Result};
use crate::key::RsaPublicKey;

/// How far clocks may differ: the certificate validity tolerance of MS-RMPR 3.1.3.3.
pub const ISSUED_TIME_TOLERANCE: Duration = Duration::minutes(15);

/// A trusted root key: SHA-256 over its modulus as XrML writes it, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a key.
    #[must_use]
    pub fn of(key: &RsaPublicKey) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, ModulusLe::of(key).as_bytes());
        let mut pin = [0u8; 32];
        pin.copy_from_slice(digest.as_ref());
        Pin(pin)
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut pin = [0u8; 32];
        hex::decode_to_slice(text, &mut pin)
            .map_err(|_| Error::new(Reason::InvalidArgument, "a pin is 64 hexadecimal digits"))?;
        Ok(Pin(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// Where the issuer of a document was found.
#[derive(Clone, Debug)]
pub enum Link {
    /// Among the documents, at this index, and every rule between the two holds.
    Document(usize),
    /// The issuer's key is pinned.
    Pin,
    /// Neither among the documents nor among the pins.
    None,
    /// A rule between this document and its issuer is broken.
    Broken(Error),
}

/// What was found out about one document.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is, or why that cannot be told.
    pub kind: Result<Kind>,
    /// The GUID of its DESCRIPTOR, where it has one.
    pub guid: Option<String>,
    /// Its content, or why not even what links it to others can be read.
    pub content: Result<Content>,
    /// Whether all of it can be read and it has what its kind must have. If not, `content` has what can be read.
    pub form: Result<()>,
    /// Whether its signature holds under the key of its own ISSUER.
    pub signature: Result<()>,
    /// Its issuer.
    pub link: Link,
    /// Whether the links from here lead to a pin and every signature on the way holds.
    pub is_pinned: bool,
    /// Whether no other document was issued by it.
    pub is_leaf: bool,
    /// Parts of ISSUER that are not as in the issuer's principal, of which it should be a copy.
    pub differences: Vec<&'static str>,
    /// Paths of elements and attributes that this room does not know, as `BODY/WORK/X` and `BODY/WORK/@x`. They are kept in
    /// the text and change nothing.
    pub unknown: Vec<String>,
}

impl Finding {
    /// Whether form, signature and link hold. It may still not lead to a pin.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.form.is_ok() && self.signature.is_ok() && !matches!(self.link, Link::Broken(_))
    }

    /// Refuses a leaf that is not good at a moment: by ISSUEDTIME, if that is still to come, by VALIDITYTIME, by the time of
    /// a certificate's right to issue, by the times of conditions on the whole document, and a use license also if none of
    /// its rights may be used then. Certificates above the leaf are judged by the time of issue of what hangs below them
    /// and may have ended since.
    ///
    /// # Errors
    /// `DOCUMENT_DATES`, or why there are no dates to judge.
    pub fn check_time(&self, moment: OffsetDateTime) -> Result<()> {
        if !self.is_leaf {
            return Ok(());
        }
        let kind = self.kind.as_ref().copied().map_err(Error::clone)?;
        let content = self.content.as_ref().map_err(Error::clone)?;
        let dates = |message: String| Error::new(Reason::DocumentDates, message);
        let issue = if kind.issues() { Some(issue_range(content)?) } else { None };
        if matches!(kind, Kind::Rac | Kind::UserKey) && content.validity.is_none() {
            return Err(dates("it has no VALIDITYTIME, so nothing says when it is good".into()));
        }
        let conditions = content.conditions_of_all().flat_map(|conditions| &conditions.ranges).copied();
        for range in content.validity.into_iter().chain(issue).chain(conditions) {
            if moment < range.from.moment() {
                return Err(dates(format!("not valid before {}", range.from)));
            }
            if !range.holds(moment) {
                return Err(dates(format!("not valid since {}", range.until)));
            }
        }
        if let Some(issued) = content.issued.filter(|issued| issued.moment() > moment + ISSUED_TIME_TOLERANCE) {
            return Err(dates(format!("not issued before {issued}")));
        }
        // In rights data it bounds what is published with them, from its publication on.
        let is_published = !matches!(kind, Kind::Template | Kind::RightsData);
        if is_published && content.conditions_of_all().any(|conditions| !conditions.hold(content.issued, moment)) {
            return Err(dates("used up: the time for which it could be used from its issue on is over".into()));
        }
        let rights = content.work.as_ref().map_or(&[][..], |work| &work.rights);
        if kind == Kind::Ul && self.idle_rights(moment).len() == rights.len() {
            return Err(dates("none of its rights may be used then".into()));
        }
        Ok(())
    }

    /// The rights of a use license that may not be used at a moment.
    #[must_use]
    pub fn idle_rights(&self, moment: OffsetDateTime) -> Vec<&str> {
        let Ok(content) = &self.content else { return Vec::new() };
        let rights = content
            .work
            .iter()
            .flat_map(|work| &work.rights)
            .filter(|_| self.kind.as_ref().is_ok_and(|kind| *kind == Kind::Ul));
        let idle = rights.filter(|right| !right.conditions.hold(content.issued, moment));
        idle.map(|right| right.name.as_str()).collect()
    }
}

/// Checks documents that belong together, each before its issuer, and says of each what holds.
///
/// The issuer of a document is the next one, or the first after it whose principal is named in ISSUER: protected files
/// carry several chains back to back. The root certificate does not travel, so the last issuer can only be pinned.
#[must_use]
pub fn check(documents: &[Document], pins: &[Pin]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = documents.iter().map(examine).collect();
    for at in (0..findings.len()).rev() {
        let (link, is_pinned) = match link(&findings, at, pins) {
            Ok(Link::Document(issuer)) => {
                findings[issuer].is_leaf = false;
                findings[at].differences = differences(&findings[at], &findings[issuer]);
                (Link::Document(issuer), findings[issuer].is_pinned || is_issuer_pinned(&findings[at], pins))
            }
            Ok(Link::Pin) => (Link::Pin, true),
            Ok(other) => (other, false),
            Err(error) => (Link::Broken(error), false),
        };
        findings[at].link = link;
        findings[at].is_pinned = is_pinned && findings[at].is_good();
    }
    findings
}

/// What each document is, in short: its kind, and for an authority that certified an enrollment service, which only the
/// chain can tell, `enrollment-ca`.
#[must_use]
pub fn names(findings: &[Finding]) -> Vec<&'static str> {
    let is = |finding: &Finding, kind: Kind| finding.kind.as_ref().is_ok_and(|k| *k == kind);
    let below =
        |at: usize| findings.iter().enumerate().filter(move |(_, f)| matches!(f.link, Link::Document(i) if i == at));
    // In version 1 an activation service has the form of an enrollment service; it certifies machines.
    let is_service = |at: usize, finding: &Finding| {
        is(finding, Kind::EnrollmentService) && !below(at).any(|(_, machine)| is(machine, Kind::Spc))
    };
    let name = |(at, finding): (usize, &Finding)| match &finding.kind {
        Ok(Kind::Ca) if below(at).any(|(service, f)| is_service(service, f)) => "enrollment-ca",
        Ok(kind) => kind.name(),
        Err(_) => "unknown",
    };
    findings.iter().enumerate().map(name).collect()
}

/// Checks one chain, leaf first, that must be good throughout, lead to a pin, and have a leaf that is good at a moment.
///
/// # Errors
/// `CHAIN_INVALID`, or the error of the first document that is wrong, with its place and kind in the message.
pub fn require(documents: &[Document], pins: &[Pin], moment: OffsetDateTime) -> Result<Vec<Finding>> {
    let findings = check(documents, pins);
    let names = names(&findings);
    for (at, finding) in findings.iter().enumerate() {
        let place = format!("document {} ({})", at + 1, names[at]);
        let broken = match &finding.link {
            Link::Broken(error) => Err(error.clone()),
            Link::Document(issuer) if *issuer != at + 1 => {
                Err(Error::new(Reason::ChainInvalid, "its issuer is not the next document"))
            }
            _ => Ok(()),
        };
        let kind = finding.kind.as_ref().map(|_| ()).map_err(Error::clone);
        let own = kind.and(finding.signature.clone()).and(finding.form.clone());
        own.and(broken).and_then(|()| finding.check_time(moment)).map_err(|e| e.while_doing(&place))?;
    }
    match findings.first() {
        Some(leaf) if leaf.is_pinned => Ok(findings),
        _ => Err(Error::new(Reason::ChainInvalid, "the chain does not lead to a pinned root key")
            .hint("Compare the root key with the pins: the last certificate's ISSUER has it")),
    }
}

fn is_issuer_pinned(finding: &Finding, pins: &[Pin]) -> bool {
    let issuer = finding.content.as_ref().ok().and_then(|content| content.issuer.as_ref());
    issuer.and_then(|issuer| issuer.key.as_ref()).is_some_and(|key| pins.contains(&Pin::of(key)))
}

/// Everything that a document shows by itself.
fn examine(document: &Document) -> Finding {
    let kind = Kind::of(document.body());
    let (content, whole) = Content::read_or_salvage(document.body());
    let form = whole.and_then(|()| match (&kind, &content) {
        (Ok(kind), Ok(content)) => form::check(*kind, document.body(), content),
        (Err(fault), _) | (_, Err(fault)) => Err(fault.clone()),
    });
    // Read by itself where the rest cannot be: a signature holds or not, whatever else is wrong.
    let issuer_key = match &content {
        Ok(content) => Ok(content.issuer.as_ref().and_then(|issuer| issuer.key.clone())),
        Err(_) => document.body().element().required("ISSUER").and_then(Principal::read).map(|issuer| issuer.key),
    };
    let signature = issuer_key.and_then(|key| match key {
        Some(key) => signature::verify(document, &key),
        None => Err(Error::new(Reason::DocumentIncomplete, "ISSUER has no PUBLICKEY to verify with")),
    });
    let descriptor = content.as_ref().ok().and_then(|content| content.descriptor.as_ref());
    let guid = descriptor.filter(|object| object.id.is_guid()).map(|object| object.id.value.clone());
    let unknown = unknown::paths(document);
    let (link, differences) = (Link::None, Vec::new());
    Finding { kind, guid, content, form, signature, link, is_pinned: false, is_leaf: true, differences, unknown }
}

/// Finds the issuer of a document and checks the rules between the two. Later documents are linked already.
fn link(findings: &[Finding], at: usize, pins: &[Pin]) -> Result<Link> {
    let Ok(content) = &findings[at].content else { return Ok(Link::None) };
    let Some(issuer) = &content.issuer else { return Ok(Link::None) };
    let kind = findings[at].kind.as_ref().copied().map_err(Error::clone)?;
    issuer.required_key("ISSUER")?;
    let later = || findings.iter().enumerate().skip(at + 1);
    let mut issuers: Vec<_> = later().filter(|(_, other)| is_issuer(other, issuer, kind)).collect();
    // A renewed certificate has key and ID of the one before it: one that is good goes before one that is not.
    issuers.sort_by_key(|(_, certificate)| (!certificate.is_pinned, !certificate.is_good()));
    let held = issuers.iter().find(|(_, certificate)| check_link(content, kind, certificate).is_ok());
    match (held, issuers.first()) {
        (Some((found, _)), _) => return Ok(Link::Document(*found)),
        (None, Some((found, certificate))) => {
            return check_link(content, kind, certificate).map(|()| Link::Document(*found));
        }
        (None, None) => {}
    }
    if is_issuer_pinned(&findings[at], pins) {
        // A root is an authority, and its key signs what authorities may, pinned or not.
        if issuer.object.as_ref().is_some_and(|object| object.kind() == AUTHORITY) && !may_issue(Kind::Ca, kind) {
            let message = format!("the pinned key is an authority's, which may not issue {}", kind.words());
            return Err(Error::new(Reason::ChainInvalid, message));
        }
        return Ok(Link::Pin);
    }
    // Above an authority may be the root, and a revocation list has any issuer: nothing needs to follow them.
    let may_end = matches!(kind, Kind::Ca | Kind::RevocationList);
    let Some((_, next)) = later().next().filter(|_| !may_end) else { return Ok(Link::None) };
    Err(foreign(issuer, next))
}

/// Whether the principal of a document is the issuer: same key, same ID and same type (MS-RMPR 2.2.9.3.2: exactly). Of a
/// machine certificate's issuer the type means nothing (2.2.9.4.2), and a list names its issuer in its own words.
fn is_issuer(certificate: &Finding, issuer: &Principal, kind: Kind) -> bool {
    let Ok(Content { principal: Some(principal), .. }) = &certificate.content else { return false };
    let is_same_object = || {
        let (Some(a), Some(b)) = (&principal.object, &issuer.object) else { return false };
        a.id.is_same(&b.id) && (kind == Kind::Spc || a.kind == b.kind)
    };
    // A license or an account certificate has a principal with a key as well, and issues nothing.
    let is_certificate = certificate.kind.as_ref().is_ok_and(|kind| kind.issues());
    is_certificate && principal.key == issuer.key && (kind == Kind::RevocationList || is_same_object())
}

/// Where ISSUER is not a copy of the issuer's principal, as far as it must be one: names and addresses in all documents,
/// levels in the certificates that a server issues to users (MS-RMPR 2.2.9.5.2, 2.2.9.6.2).
fn differences(finding: &Finding, certificate: &Finding) -> Vec<&'static str> {
    let (Ok(kind), Ok(content), Ok(issuing)) = (&finding.kind, &finding.content, &certificate.content) else {
        return Vec::new();
    };
    let (Some(issuer), Some(principal)) = (&content.issuer, &issuing.principal) else { return Vec::new() };
    let (Some(own), Some(given)) = (&issuer.object, &principal.object) else { return Vec::new() };
    let is_bound = !matches!(kind, Kind::Spc | Kind::RevocationList);
    let has_levels = matches!(kind, Kind::Rac | Kind::UserKey | Kind::Clc);
    let parts = [
        ("NAME", is_bound && own.name != given.name),
        ("ADDRESS", is_bound && own.addresses != given.addresses),
        ("SECURITYLEVEL", has_levels && issuer.levels != principal.levels),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// Why the next document is not the issuer.
fn foreign(issuer: &Principal, next: &Finding) -> Error {
    let principal = next.content.as_ref().ok().and_then(|content| content.principal.as_ref());
    let objects = principal.and_then(|p| p.object.as_ref()).zip(issuer.object.as_ref());
    let ids = objects.map(|(a, b)| a.id.is_same(&b.id) && a.kind == b.kind);
    let message = match (ids, principal.is_some_and(|principal| principal.key == issuer.key)) {
        (Some(true), true) => {
            "the next document names its issuer and is no certificate, nor is the issuer's key pinned"
        }
        (Some(true), false) => "the next document has the ID of the issuer with another key",
        (Some(false), true) => "the next document has the key of the issuer with another ID or type of object",
        _ => "no later document is its issuer, nor is the issuer's key pinned",
    };
    Error::new(Reason::ChainInvalid, message)
}

fn check_link(content: &Content, kind: Kind, certificate: &Finding) -> Result<()> {
    let invalid = |message: String| Error::new(Reason::ChainInvalid, message);
    let above = certificate.kind.as_ref().copied().map_err(Error::clone)?;
    if !may_issue(above, kind) {
        return Err(invalid(format!("{} may not issue {}", above.words(), kind.words())));
    }
    let Ok(issuing) = &certificate.content else { return Err(invalid("the issuer's document cannot be read".into())) };
    let range = issue_range(issuing).map_err(|e| invalid(format!("the issuer's document: {}", e.message())))?;
    let issued = content.issued.ok_or_else(|| invalid("the document has no ISSUEDTIME".into()))?;
    for range in std::iter::once(range).chain(issuing.validity) {
        if !range.holds(issued.moment()) {
            let (from, until) = (range.from, range.until);
            return Err(invalid(format!("issued at {issued}, but its issuer could issue from {from} until {until}")));
        }
    }
    match above == Kind::Clc && kind == Kind::Ul && !is_own(content) {
        true => {
            Err(invalid("a user may issue a use license to itself alone, with the right OWNER and no other".into()))
        }
        false => Ok(()),
    }
}

/// Whether a use license is one that its issuer, a user, makes for itself as the owner.
fn is_own(license: &Content) -> bool {
    let [issuer, licensee] =
        [&license.issuer, &license.principal].map(|party| party.as_ref().and_then(|party| party.object.as_ref()));
    let rights = license.work.as_ref().map_or(&[][..], |work| &work.rights);
    issuer.zip(licensee).is_some_and(|(issuer, licensee)| issuer.id.is_same(&licensee.id))
        && matches!(rights, [right] if right.name == OWNER)
}

/// Which kind may issue which (MS-RMPR 2.2.9.2; the last lines of it are ours: a licensing-only cluster certifies nobody).
fn may_issue(issuer: Kind, kind: Kind) -> bool {
    use Kind::{
        Ca, Clc, EnrollmentService, Pl, ProcessorCa, ProcessorIssuer, Rac, RevocationList, RightsData, Slc, Spc,
        SubSlc, Template, Ul, UserKey,
    };
    match kind {
        Ca | EnrollmentService | ProcessorCa => issuer == Ca,
        Slc => issuer == EnrollmentService,
        ProcessorIssuer => issuer == ProcessorCa,
        Spc => matches!(issuer, ProcessorIssuer | EnrollmentService),
        SubSlc | Rac | UserKey => issuer == Slc,
        Clc | Template => matches!(issuer, Slc | SubSlc),
        Pl | Ul => matches!(issuer, Slc | SubSlc | Clc),
        RevocationList => true,
        RightsData => false,
    }
}
