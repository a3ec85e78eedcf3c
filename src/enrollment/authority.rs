//! An enrollment authority: root, CA, enrollment CA and enrollment service, each with a key in the authority's own
//! token, and the answering of requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use time::Duration as Span;
use uuid::Uuid;

use crate::audit::record::{Event, brief};
use crate::caller::Caller;
use crate::clock;
use crate::cluster;
use crate::custody::{Custody, Making, Signing};
use crate::enrollment::fingerprint::Fingerprint;
use crate::enrollment::request::Request;
use crate::enrollment::response::{self, Chain};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, Mode, PublicKey, RsaPublicKey};
use crate::policy::{self, Asked, DocumentKind, Operation, Permit};
use crate::store::{Batch, Kind, Write};
use crate::xrml::certificate::{Certificate, Stamp};
use crate::xrml::element::Principal;
use crate::xrml::signature::{self, Root};
use crate::xrml::slc::Server;
use crate::xrml::text::Document;
use crate::xrml::time::{Range, XrmlTime};
use crate::xrml::value::SignatureBe;
use crate::xrml::{ca, enrollment_ca, enrollment_service, slc};

/// Time for one act with a key of the authority.
const ACT: Duration = Duration::from_secs(60);
/// Name of the authority's one record.
const RECORD: &str = "authority";

/// Which of the two parallel hierarchies an authority stands in (MS-RMPR 2.2.9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Hierarchy {
    /// For use.
    Production,
    /// For trying out.
    PreProduction,
}

/// An authority to be founded.
#[derive(Clone, Debug)]
pub struct NewAuthority {
    /// Whose it is: the first word of every name in the hierarchy.
    pub organisation: String,
    /// Production or pre-production.
    pub hierarchy: Hierarchy,
    /// How long its certificates may issue, in years.
    pub years: u16,
}

/// The authority's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authority {
    /// Production or pre-production.
    pub hierarchy: Hierarchy,
    /// Name of the root.
    pub root_name: String,
    /// The root's public key: what verifiers pin.
    pub root: RsaPublicKey,
    /// Certificates of enrollment service, enrollment CA and CA, in the order of a chain.
    pub documents: Vec<String>,
}

/// Founds an authority: makes its four keys and three certificates.
///
/// # Errors
/// `ALREADY_EXISTS`, `INVALID_ARGUMENT`; those of custody.
pub async fn found(custody: &Arc<Custody>, caller: &Caller, new: NewAuthority) -> Result<Authority> {
    cluster::check_text("organisation", &new.organisation)?;
    if custody.store().get(Kind::Authority, RECORD).await?.is_some() {
        return Err(Error::new(Reason::AlreadyExists, "this directory holds an authority already"));
    }
    let kind = match new.hierarchy {
        Hierarchy::Production => "Production",
        Hierarchy::PreProduction => "ISV",
    };
    let name = |part: &str| format!("{} DRM {kind} {part}", new.organisation);
    let root = ca::authority(&name("Root"), make(custody, caller, KeyRole::Root).await?);
    let ca = ca::authority(&name("CA"), make(custody, caller, KeyRole::Ca).await?);
    let enrollment_ca =
        ca::authority(&name("Server Enrollment CA"), make(custody, caller, KeyRole::EnrollmentCa).await?);
    let service = enrollment_service::service(
        &guid(),
        &format!("{} DRM Server Enrollment Service", new.organisation),
        make(custody, caller, KeyRole::EnrollmentService).await?,
    );
    let now = clock::now();
    let until = now + Span::days(i64::from(new.years) * 365);
    let stamp = || Stamp {
        guid: guid(),
        issued_time: XrmlTime::from_moment(now),
        range: Range { from: XrmlTime::from_moment(now), until: XrmlTime::from_moment(until) },
    };
    let found = Operation::FoundAuthority;
    let levels = [
        (ca::certificate(&root, ca.clone(), stamp()), KeyRole::Root, DocumentKind::CaCertificate),
        (
            enrollment_ca::certificate(&ca, enrollment_ca.clone(), stamp()),
            KeyRole::Ca,
            DocumentKind::EnrollmentCaCertificate,
        ),
        (
            enrollment_service::certificate(&enrollment_ca, service, stamp()),
            KeyRole::EnrollmentCa,
            DocumentKind::EnrollmentServiceCertificate,
        ),
    ];
    let mut documents = Vec::new();
    for (certificate, role, kind) in levels {
        documents.insert(0, issue(custody, caller, found, &certificate, role, kind).await?);
    }
    let authority = Authority {
        hierarchy: new.hierarchy,
        root_name: name("Root"),
        root: root.required_key("the root")?.clone(),
        documents,
    };
    let write = Write::new(Kind::Authority, RECORD, 0, &authority)?;
    custody.store().commit(Batch { writes: vec![write], events: Vec::new() }).await?;
    Ok(authority)
}

/// A request that was read, and its fingerprint.
pub struct Received {
    /// What is asked for.
    pub request: Request,
    /// Over the file's bytes.
    pub fingerprint: Fingerprint,
}

/// Receives a request: it is recorded, malformed or not.
///
/// # Errors
/// What is wrong with the request.
pub async fn receive(custody: &Arc<Custody>, caller: &Caller, document: &[u8]) -> Result<Received> {
    let fingerprint = Fingerprint::of(document);
    let read = Request::read(document);
    let (subject, detail) = match &read {
        Ok(request) => (request.guid.to_string(), brief(&format!("{} at {}", request.name, request.url))),
        Err(fault) => (String::new(), refusal_words(fault)),
    };
    let document_sha256 = fingerprint.sha256.clone();
    let event =
        Event::Enrollment { caller: caller.note(), step: "request-received".into(), subject, document_sha256, detail };
    custody.store().commit(Batch::event(event)).await?;
    Ok(Received { request: read?, fingerprint })
}

/// What the record of a request says of why it was refused.
fn refusal_words(fault: &Error) -> String {
    brief(&format!("{}: {}", fault.reason().code(), fault.message()))
}

/// Answers a request whose fingerprint was compared: issues the certificate and gives the response file's bytes.
///
/// # Errors
/// `PERMISSION_DENIED` if the words are not those of the request; `NOT_FOUND` if this is no authority; those of custody.
/// Each is recorded.
pub async fn process(
    custody: &Arc<Custody>,
    caller: &Caller,
    received: Received,
    heard: &str,
    days: u32,
) -> Result<Vec<u8>> {
    let subject = received.request.guid.to_string();
    let document_sha256 = received.fingerprint.sha256.clone();
    match answer(custody, caller, received, heard, days).await {
        Ok(response) => Ok(response),
        Err(refusal) => {
            let (step, detail) = ("request-refused".to_owned(), refusal_words(&refusal));
            let event = Event::Enrollment { caller: caller.note(), step, subject, document_sha256, detail };
            custody.store().commit(Batch::event(event)).await?;
            Err(refusal)
        }
    }
}

async fn answer(
    custody: &Arc<Custody>,
    caller: &Caller,
    received: Received,
    heard: &str,
    days: u32,
) -> Result<Vec<u8>> {
    let Received { request, fingerprint } = received;
    let subject = request.guid.to_string();
    if !fingerprint.is_read_as(heard) {
        let refusal = Error::new(
            Reason::PermissionDenied,
            format!("the words that were heard are not those of this file: {}", fingerprint.words),
        )
        .hint(
            "ask the sender to read out the words of `keyward enroll export`; if they differ, the file was exchanged",
        );
        return Err(custody.refuse(caller, Operation::ProcessEnrollment, &subject, refusal).await);
    }
    let authority: Authority = match custody.store().get(Kind::Authority, RECORD).await? {
        Some(object) => object.read()?,
        None => {
            return Err(
                Error::new(Reason::NotFound, "this directory holds no authority").hint("keyward authority init")
            );
        }
    };
    let service = enrollment_service::read(Document::read(&authority.documents[0])?.body())?;
    let now = clock::now();
    let until = (now + Span::days(i64::from(days))).min(service.range.until.moment());
    let stamp = Stamp {
        guid: guid(),
        issued_time: XrmlTime::from_moment(now),
        range: Range { from: XrmlTime::from_moment(now), until: XrmlTime::from_moment(until) },
    };
    let server = Server {
        guid: format!("{{{}}}", request.guid),
        name: Some(request.name),
        url: request.url,
        version: request.version,
        sku: request.sku,
        key: request.key,
    };
    let certificate = match request.revocation.is_empty() {
        true => slc::certificate(&service.principal, server, stamp),
        false => slc::certificate_with_authorities(&service.principal, server, stamp, &request.revocation)?,
    };
    let (operation, kind) = (Operation::ProcessEnrollment, DocumentKind::ServerLicensorCertificate);
    let document = issue(custody, caller, operation, &certificate, KeyRole::EnrollmentService, kind).await?;
    let chain = Chain { documents: std::iter::once(document).chain(authority.documents).collect() };
    let response = response::write(&chain);
    let name = format!("issued/{}", certificate.guid().trim_matches(['{', '}']));
    let event = Event::Enrollment {
        caller: caller.note(),
        step: "response-issued".into(),
        subject,
        document_sha256: Fingerprint::of(&response).sha256,
        detail: name.clone(),
    };
    let writes = vec![Write::new(Kind::Chain, &name, 0, &chain)?];
    custody.store().commit(Batch { writes, events: vec![event] }).await?;
    Ok(response)
}

/// Makes one of the authority's keys.
async fn make(custody: &Arc<Custody>, caller: &Caller, role: KeyRole) -> Result<RsaPublicKey> {
    let asked = Asked { operation: Operation::FoundAuthority, cluster: None, signs: None };
    let (token, _) = custody.default_token()?;
    let making = Making { name: key_name(role), role, mode: Mode::Two, token: token.to_owned(), beside: Vec::new() };
    let permit = policy::permit(caller, &asked)?;
    match custody.generate(permit, making, Instant::now() + ACT).await?.answer().public {
        PublicKey::Rsa(key) => Ok(key),
        PublicKey::P256 { .. } => Err(Error::new(Reason::Internal, "an authority's key is RSA")),
    }
}

/// Has a certificate signed by the authority's key of a role; gives its text.
async fn issue(
    custody: &Arc<Custody>,
    caller: &Caller,
    operation: Operation,
    certificate: &Certificate,
    role: KeyRole,
    kind: DocumentKind,
) -> Result<String> {
    let permit: Permit = policy::permit(caller, &Asked { operation, cluster: None, signs: Some((role, kind)) })?;
    let key = custody.key(&key_name(role)).await?;
    let issuer: &Principal = &certificate.issuer;
    if PublicKey::Rsa(issuer.required_key("ISSUER")?.clone()) != key.record.public {
        return Err(Error::new(Reason::Internal, "a certificate names another issuer than the key that signs it"));
    }
    let body = certificate.write()?;
    let digest = signature::digest(&body, key.record.mode.hash());
    let signing = Signing {
        kind,
        guid: certificate.guid().to_owned(),
        issued: certificate.issued_time.to_string(),
        digest: digest.clone(),
    };
    let signed = custody.sign(permit, key, signing, Instant::now() + ACT).await?.answer();
    Ok(signature::complete(Root::Server, &body, &digest, &SignatureBe::new(signed)))
}

fn key_name(role: KeyRole) -> String {
    format!("keys/{}", role.name())
}

fn guid() -> String {
    format!("{{{}}}", Uuid::new_v4())
}
