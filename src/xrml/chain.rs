//! Chains: who issued what, whether the links hold, and how far the trust reaches (MS-RMPR 2.2.9.2).

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

use super::certificate::ISSUE;
use super::content::Content;
use super::element::Principal;
use super::kind::Kind;
use super::signature;
use super::text::Document;
use super::time::Range;
use super::unknown;
use super::value::ModulusLe;
use crate::error::{Error, Reason, Result};
use crate::key::RsaPublicKey;

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
    /// Why something else in it cannot be read; `content` then has only what links it to others.
    pub fault: Option<Error>,
    /// Whether its signature holds under the key of its own ISSUER.
    pub signature: Result<()>,
    /// Its issuer.
    pub link: Link,
    /// Whether the links from here lead to a pin and every signature on the way holds.
    pub is_pinned: bool,
    /// Whether no other document was issued by it.
    pub is_leaf: bool,
    /// Paths of elements that this room does not know, as `BODY/WORK/X`. They are kept in the text and change nothing.
    pub unknown: Vec<String>,
}

impl Finding {
    /// Whether signature and link hold. It may still not lead to a pin, or have parts that cannot be read.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.kind.is_ok() && self.content.is_ok() && self.signature.is_ok() && !matches!(self.link, Link::Broken(_))
    }

    /// The times within which the document itself is good: VALIDITYTIME, and for a certificate the time of its right to
    /// issue. Of a use license's rights each has its own time, so they are not among them.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range> {
        let Ok(content) = &self.content else { return Vec::new() };
        content.validity.iter().copied().chain(issue_ranges(content)).collect()
    }

    /// Refuses a leaf that is not good at a moment. Certificates above it are judged by the time of issue of what hangs
    /// below them and may have ended since.
    ///
    /// # Errors
    /// `DOCUMENT_DATES`.
    pub fn check_time(&self, moment: OffsetDateTime) -> Result<()> {
        if !self.is_leaf {
            return Ok(());
        }
        for range in self.ranges() {
            if moment < range.from.moment() {
                return Err(Error::new(Reason::DocumentDates, format!("not valid before {}", range.from)));
            }
            if !range.holds(moment) {
                return Err(Error::new(Reason::DocumentDates, format!("not valid since {}", range.until)));
            }
        }
        Ok(())
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
        finding.kind.as_ref().map(|_| ()).map_err(Error::clone).map_err(|e| e.while_doing(&place))?;
        finding.fault.clone().map_or(Ok(()), Err).map_err(|e| e.while_doing(&place))?;
        finding.signature.clone().and(broken).and(finding.check_time(moment)).map_err(|e| e.while_doing(&place))?;
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
    let (content, fault) = match Content::read(document.body()) {
        Ok(content) => (Ok(content), None),
        Err(fault) => (Content::read_links(document.body()), Some(fault)),
    };
    let issuer_key = content.as_ref().ok().and_then(|content| content.issuer.as_ref()?.key.clone());
    let signature = match (issuer_key, &content) {
        (Some(key), _) => signature::verify(document, &key),
        (None, Err(error)) => Err(error.clone()),
        (None, Ok(_)) => Err(Error::new(Reason::DocumentIncomplete, "ISSUER has no PUBLICKEY to verify with")),
    };
    let descriptor = content.as_ref().ok().and_then(|content| content.descriptor.as_ref());
    let guid = descriptor.filter(|object| object.id.is_guid()).map(|object| object.id.value.clone());
    let unknown = unknown::paths(document.body());
    Finding { kind, guid, content, fault, signature, link: Link::None, is_pinned: false, is_leaf: true, unknown }
}

/// Finds the issuer of a document and checks the rules between the two. Later documents are linked already.
fn link(findings: &[Finding], at: usize, pins: &[Pin]) -> Result<Link> {
    let Ok(content) = &findings[at].content else { return Ok(Link::None) };
    let Some(issuer) = &content.issuer else { return Ok(Link::None) };
    let kind = findings[at].kind.as_ref().copied().map_err(Error::clone)?;
    issuer.required_key("ISSUER")?;
    let later = || findings.iter().enumerate().skip(at + 1);
    if let Some((found, certificate)) = later().find(|(_, other)| is_issuer(other, issuer, kind)) {
        check_link(content, kind, certificate)?;
        return Ok(Link::Document(found));
    }
    if is_issuer_pinned(&findings[at], pins) {
        return Ok(Link::Pin);
    }
    // Above an authority may be the root, and a revocation list has any issuer: nothing needs to follow them.
    let may_end = matches!(kind, Kind::Ca | Kind::RevocationList);
    let Some((_, next)) = later().next().filter(|_| !may_end) else { return Ok(Link::None) };
    Err(foreign(issuer, next))
}

/// Whether the principal of a document is the issuer: same key and same ID. A list names its issuer in its own words.
fn is_issuer(certificate: &Finding, issuer: &Principal, kind: Kind) -> bool {
    let Ok(Content { principal: Some(principal), .. }) = &certificate.content else { return false };
    let is_same_id = || {
        let (Some(a), Some(b)) = (&principal.object, &issuer.object) else { return false };
        a.id.is_same(&b.id)
    };
    // A license or an account certificate has a principal with a key as well, and issues nothing.
    let is_certificate = certificate.kind.as_ref().is_ok_and(|kind| kind.issues());
    is_certificate && principal.key == issuer.key && (kind == Kind::RevocationList || is_same_id())
}

/// Why the next document is not the issuer.
fn foreign(issuer: &Principal, next: &Finding) -> Error {
    let principal = next.content.as_ref().ok().and_then(|content| content.principal.as_ref());
    let ids = principal.and_then(|p| p.object.as_ref()).zip(issuer.object.as_ref()).map(|(a, b)| a.id.is_same(&b.id));
    let message = match (ids, principal.is_some_and(|principal| principal.key == issuer.key)) {
        (Some(true), _) => "the next document has the ID of the issuer with another key",
        (_, true) => "the next document has the key of the issuer with another ID",
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
    let mut ranges = issue_ranges(issuing).peekable();
    if ranges.peek().is_none() {
        return Err(invalid("the issuer's document gives no right to issue for a time".into()));
    }
    let issued = content.issued.ok_or_else(|| invalid("the document has no ISSUEDTIME".into()))?;
    for range in ranges.chain(issuing.validity) {
        if !range.holds(issued.moment()) {
            let (from, until) = (range.from, range.until);
            return Err(invalid(format!("issued at {issued}, but its issuer could issue from {from} until {until}")));
        }
    }
    Ok(())
}

fn issue_ranges(content: &Content) -> impl Iterator<Item = Range> {
    let rights = content.work.iter().flat_map(|work| &work.rights).filter(|right| right.name == ISSUE);
    rights.flat_map(|right| right.conditions.ranges.iter().copied())
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
