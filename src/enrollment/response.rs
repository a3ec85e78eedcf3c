//! The enrollment response as a file: written by an authority, checked and taken in by the cluster that asked.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::audit::record::{Event, brief};
use crate::caller::Caller;
use crate::clock;
use crate::cluster::{Cluster, Enrolled};
use crate::custody::Custody;
use crate::enrollment::fingerprint::Fingerprint;
use crate::enrollment::request::Request;
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::policy::{self, Asked, Operation};
use crate::store::{Batch, Kind, Write};
use crate::xrml::certificate::Certificate;
use crate::xrml::chain::{self, Pin};
use crate::xrml::{carrier, slc};

/// Documents of a response: the server licensor certificate and three authorities (MS-RMPR 2.2.9.2).
const DOCUMENTS: usize = 4;

/// A server licensor certificate with the chain above it, leaf first, each the exact text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The texts.
    pub documents: Vec<String>,
}

/// A field in which a certificate may differ from the request if a person accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// SECURITYLEVEL `Server-SKU`.
    Sku,
    /// SECURITYLEVEL `Server-Version`.
    Version,
    /// NAME.
    Name,
    /// ADDRESS.
    Url,
}

impl Field {
    const ALL: [Field; 4] = [Field::Sku, Field::Version, Field::Name, Field::Url];

    /// The name that people give.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Field::Sku => "sku",
            Field::Version => "version",
            Field::Name => "name",
            Field::Url => "url",
        }
    }

    /// The field of a name.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn named(name: &str) -> Result<Self> {
        Field::ALL.into_iter().find(|field| field.name() == name).ok_or_else(|| {
            Error::new(
                Reason::InvalidArgument,
                format!("{name:?} is no field that may differ: sku, version, name, url"),
            )
        })
    }
}

/// What is to be taken in.
#[derive(Clone, Debug)]
pub struct Import {
    /// Resource name of the cluster.
    pub cluster: String,
    /// The file.
    pub document: Vec<u8>,
    /// Roots that are trusted, from out of band: 64 hexadecimal digits each.
    pub pins: Vec<String>,
    /// Names of the fields that may differ.
    pub accept: Vec<String>,
}

/// Writes a response: UTF-16 with byte order mark, the certificates as escaped text.
#[must_use]
pub fn write(chain: &Chain) -> Vec<u8> {
    const NAMES: [&str; DOCUMENTS] = ["SLC", "EnrollmentServiceCert", "EnrollmentCACert", "CACert"];
    let certificates: String = NAMES
        .iter()
        .zip(&chain.documents)
        .map(|(name, text)| format!("<{name}>{}</{name}>", quick_xml::escape::escape(text.as_str())))
        .collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n<EnrollResponse><LicensorCertificateChain>{certificates}\
         </LicensorCertificateChain></EnrollResponse>\r\n"
    );
    [0xFF, 0xFE].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// Checks a response against the request and the pins, and enrolls the cluster: all or nothing.
///
/// # Errors
/// What does not hold, recorded before the caller learns it; the cluster is then as it was.
pub async fn import(custody: &Arc<Custody>, caller: &Caller, import: Import) -> Result<Cluster> {
    let operation = Operation::ImportResponse;
    let name = import.cluster.clone();
    // Whoever may not import is told so before anything of the request is looked at or kept.
    if let Err(refusal) = policy::permit(caller, &Asked { operation, cluster: Some(&name), signs: None }) {
        return Err(custody.refuse(caller, operation, &name, refusal).await);
    }
    let fingerprint = Fingerprint::of(&import.document);
    match take_in(custody, caller, import, &fingerprint).await {
        Ok(cluster) => Ok(cluster),
        Err(refusal) => {
            let event = Event::Enrollment {
                caller: caller.note(),
                step: "response-refused".into(),
                subject: brief(&name),
                document_sha256: fingerprint.sha256,
                detail: refusal.reason().code().to_owned(),
            };
            Err(custody.refuse_document(caller, operation, &name, refusal, event).await)
        }
    }
}

async fn take_in(
    custody: &Arc<Custody>,
    caller: &Caller,
    import: Import,
    fingerprint: &Fingerprint,
) -> Result<Cluster> {
    let pins: Vec<Pin> = import.pins.iter().map(|pin| pin.parse()).collect::<Result<_>>()?;
    let accept: Vec<Field> = import.accept.iter().map(|name| Field::named(name)).collect::<Result<_>>()?;
    let (mut cluster, version) = custody.versioned_cluster(&import.cluster).await?;
    if cluster.slc.is_some() {
        return Err(Error::new(Reason::AlreadyExists, format!("{} has its certificate already", cluster.name))
            .hint("nothing was changed; look at it: keyward cluster get"));
    }
    let key = custody.key(&cluster.slc_key).await?;
    let request = Request::of(&cluster, &key.record.public)?;
    let (chain, certificate, differences) = check(&request, &import.document, &pins, &accept, clock::now())?;
    let guid = certificate.guid().trim_matches(['{', '}']).to_ascii_lowercase();
    let enrolled = Enrolled {
        chain: format!("{}/certificates/{guid}", cluster.name),
        from_us: clock::micros(certificate.range.from.moment()),
        until_us: clock::micros(certificate.range.until.moment()),
        enrolled_us: clock::now_us(),
    };
    let event = Event::Enrollment {
        caller: caller.note(),
        step: "response-imported".into(),
        subject: cluster.name.clone(),
        document_sha256: fingerprint.sha256.clone(),
        detail: if differences.is_empty() {
            "as requested".to_owned()
        } else {
            brief(&format!("differences accepted: {}", differences.join("; ")))
        },
    };
    let chain = Write::new(Kind::Chain, &enrolled.chain, 0, &chain)?;
    cluster.slc = Some(enrolled);
    let writes = vec![chain, Write::new(Kind::Cluster, &cluster.name, version, &cluster)?];
    faultpoint::reach("checked", "import").await;
    custody.store().commit(Batch { writes, events: vec![event] }).await?;
    faultpoint::reach("committed", "import").await;
    Ok(cluster)
}

/// Checks a response against the request: chain and pinned root, key, GUID, revocation authorities, dates, and the
/// fields that a person may accept to differ. Gives the chain, its leaf, and the differences that were accepted.
///
/// # Errors
/// The first thing that does not hold.
pub fn check(
    request: &Request,
    document: &[u8],
    pins: &[Pin],
    accept: &[Field],
    now: OffsetDateTime,
) -> Result<(Chain, Certificate, Vec<String>)> {
    if pins.is_empty() {
        return Err(Error::new(Reason::InvalidArgument, "no root is pinned")
            .hint("get the root's public key from the authority by another way than the response: --pin FILE"));
    }
    let documents = carrier::read(document)?;
    if documents.len() != DOCUMENTS {
        return Err(Error::new(
            Reason::ChainInvalid,
            format!("the response holds {} documents; a chain has {DOCUMENTS}", documents.len()),
        ));
    }
    chain::require(&documents, pins, now)?;
    let certificate = slc::read(documents[0].body())?;
    let foreign = |words: &str| {
        Error::new(Reason::IssuerKeyForeign, words).hint("this response answers another request; find the right file")
    };
    if *certificate.key()? != request.key {
        return Err(foreign("the certificate is for another key than the cluster's"));
    }
    let object = certificate.principal.required_object("PRINCIPAL")?;
    if !object.id.value.eq_ignore_ascii_case(&format!("{{{}}}", request.guid)) {
        return Err(foreign("the certificate is for another server GUID than the cluster's"));
    }
    let issuer = certificate.issuer.required_key("ISSUER")?;
    let wanted: Vec<_> = match request.revocation.is_empty() {
        true => Vec::new(),
        false => std::iter::once(issuer).chain(&request.revocation).collect(),
    };
    if slc::revocation_keys(&certificate) != wanted || certificate.revocation.is_some() == wanted.is_empty() {
        return Err(Error::new(
            Reason::ChainInvalid,
            "the certificate names other revocation authorities than were asked for",
        )
        .hint("ask the authority to process the request again, as it was exported"));
    }
    let differences = differences(request, &certificate, accept)?;
    let chain = Chain { documents: documents.iter().map(|document| document.as_str().to_owned()).collect() };
    Ok((chain, certificate, differences))
}

fn differences(request: &Request, certificate: &Certificate, accept: &[Field]) -> Result<Vec<String>> {
    let principal = &certificate.principal;
    let object = principal.required_object("PRINCIPAL")?;
    let mut accepted = Vec::new();
    for field in Field::ALL {
        let (asked, got) = match field {
            Field::Sku => (&request.sku, principal.level("Server-SKU")),
            Field::Version => (&request.version, principal.level("Server-Version")),
            Field::Name => (&request.name, object.name.as_deref()),
            Field::Url => (&request.url, object.url()),
        };
        if got == Some(asked.as_str()) {
            continue;
        }
        let words = format!("{} is {:?}, asked for was {asked:?}", field.name(), got.unwrap_or_default());
        if !accept.contains(&field) {
            return Err(Error::new(Reason::ChainInvalid, format!("the certificate differs from the request: {words}"))
                .hint(format!("if that is meant, accept it: --accept-difference {}", field.name())));
        }
        accepted.push(words);
    }
    Ok(accepted)
}
