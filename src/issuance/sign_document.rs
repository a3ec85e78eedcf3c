//! Signs a document that a node has drafted: reads it, checks what it claims, has its digest signed.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use crate::caller::Caller;
use crate::clock;
use crate::cluster::Cluster;
use crate::custody::{Custody, Held, Signing};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, PublicKey};
use crate::policy::{self, Asked, DocumentKind, Operation, Permit};
use crate::xrml::chain::ISSUED_TIME_TOLERANCE;
use crate::xrml::signature::{self, Digest, Root};
use crate::xrml::text::Body;
use crate::xrml::ul::UseLicense;
use crate::xrml::value::SignatureBe;

/// A signed document.
#[derive(Debug)]
pub struct Signed {
    /// The complete text.
    pub document: String,
    /// What kind it is.
    pub kind: DocumentKind,
    /// GUID of its DESCRIPTOR.
    pub guid: String,
    /// Digest of its BODY.
    pub digest: Digest,
}

/// Checks a BODY and signs it with the cluster's key.
///
/// # Errors
/// What is wrong with the request, recorded before the caller learns it; the token's and the store's.
pub async fn sign_document(
    custody: &Arc<Custody>,
    caller: &Caller,
    cluster: &str,
    body: &str,
    deadline: Instant,
) -> Result<Signed> {
    let checked = match check(custody, caller, cluster, body).await {
        Ok(checked) => checked,
        Err(refusal) => return Err(custody.refuse(caller, Operation::SignDocument, cluster, refusal).await),
    };
    let Checked { permit, key, body, guid, issued } = checked;
    let digest = signature::digest(&body, key.record.mode.hash());
    let kind = DocumentKind::UseLicense;
    let signing = Signing { kind, guid: guid.clone(), issued, digest: digest.clone() };
    let signature = custody.sign(permit, key, signing, deadline).await?.answer();
    let document = signature::complete(Root::UseLicense, &body, &digest, &SignatureBe::new(signature));
    Ok(Signed { document, kind, guid, digest })
}

struct Checked {
    permit: Permit,
    key: Arc<Held>,
    body: Body,
    guid: String,
    issued: String,
}

async fn check(custody: &Custody, caller: &Caller, cluster: &str, text: &str) -> Result<Checked> {
    let signs = Some((KeyRole::Slc, DocumentKind::UseLicense));
    let permit = policy::permit(caller, &Asked { operation: Operation::SignDocument, cluster: Some(cluster), signs })?;
    let cluster = custody.cluster(cluster).await?;
    // Before anything else is looked at: a cluster without a certificate issues nothing.
    cluster.issuing(clock::now_us())?;
    let key = custody.key(&cluster.slc_key).await?;
    policy::may_sign(key.record.role, key.record.state)?;
    let body = Body::read(text)?;
    body.check_stable()?;
    let license = UseLicense::read(&body)?;
    check_issuer(&license, &cluster, &key.record.public)?;
    check_dates(&license, clock::now())?;
    cluster.issuing(clock::micros(license.issued_time.moment()))?;
    let (guid, issued) = (license.guid().to_owned(), license.issued_time.to_string());
    Ok(Checked { permit, key, body, guid, issued })
}

/// The document must name the cluster it is to be signed for, by GUID and by key.
fn check_issuer(license: &UseLicense, cluster: &Cluster, public: &PublicKey) -> Result<()> {
    let named = license.issuer.required_object("ISSUER")?;
    let ours = format!("{{{}}}", cluster.guid);
    if named.kind() != "MS-DRM-Server" || !named.id.value.eq_ignore_ascii_case(&ours) {
        return Err(Error::new(
            Reason::IssuerForeign,
            format!("ISSUER names {} {}, not MS-DRM-Server {ours}", named.kind(), named.id.value),
        )
        .hint("copy ISSUER from the cluster: keyward cluster get"));
    }
    let PublicKey::Rsa(ours) = public else {
        return Err(Error::new(Reason::Internal, "a licensor key is RSA"));
    };
    if license.issuer.required_key("ISSUER")? != ours {
        return Err(Error::new(
            Reason::IssuerKeyForeign,
            format!("ISSUER names {} with another public key than its own", cluster.name),
        )
        .hint("copy the modulus from the cluster's key: keyward key get"));
    }
    Ok(())
}

/// ISSUEDTIME is now, and no right has ended before it begins.
fn check_dates(license: &UseLicense, now: OffsetDateTime) -> Result<()> {
    let issued = license.issued_time;
    if (issued.moment() - now).abs() > ISSUED_TIME_TOLERANCE {
        return Err(Error::new(
            Reason::DocumentDates,
            format!("ISSUEDTIME {issued} is more than {} minutes from now", ISSUED_TIME_TOLERANCE.whole_minutes()),
        )
        .hint("write the current UTC time, and set the node's clock right"));
    }
    for right in license.rights() {
        for range in &right.conditions.ranges {
            if range.until.moment() <= now {
                return Err(Error::new(
                    Reason::DocumentDates,
                    format!("the right {} has ended already, at {}", right.name, range.until),
                ));
            }
        }
    }
    Ok(())
}
