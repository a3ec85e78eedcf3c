//! An instance coming into being, and its TLS certificates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::trust::Trust;
use crate::caller::Caller;
use crate::custody::{AUDIT_KEY, Custody, Making, audit_key_beside};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, Mode};
use crate::policy::{self, Asked, DocumentKind, Operation};
use crate::store::Kind;
use crate::tls::{Authority, Issued, Unsigned};

/// Resource name of the TLS authority's key.
pub const TLS_KEY: &str = "keys/tls-ca";
/// Time for one act with a key of the instance.
const ACT: Duration = Duration::from_secs(60);

/// What a new instance has that others must know.
pub struct Founded {
    /// The TLS authority's certificate, PEM.
    pub tls_authority_pem: String,
    /// The first entry of the log's history of audit keys: a signed note.
    pub audit_trust: String,
}

/// Founds an instance: makes its audit key and its TLS authority in the token.
///
/// # Errors
/// `ALREADY_EXISTS` if it was founded before; those of custody.
pub async fn found(custody: &Arc<Custody>, caller: &Caller) -> Result<Founded> {
    // Whoever made it, and whether or not that counts here.
    if !custody.store().names(Kind::Key, TLS_KEY, "", 1).await?.is_empty() {
        return Err(Error::new(Reason::AlreadyExists, "another instance has its records here already")
            .hint("to make one more instance on this database: keyward init DIR --beside ITS-DIR --instance NAME"));
    }
    make(custody, caller, AUDIT_KEY, KeyRole::Audit).await?;
    make(custody, caller, TLS_KEY, KeyRole::TlsCa).await?;
    let key = custody.key(TLS_KEY).await?;
    let unsigned = Authority::found("Keyward TLS authority", &key.record.public)?;
    let issued = sign(custody, caller, Operation::FoundInstance, "Keyward TLS authority", unsigned).await?;
    let audit_trust = custody.begin_trust(Instant::now() + ACT).await?.to_string();
    Ok(Founded { tls_authority_pem: issued.certificate_pem, audit_trust })
}

/// Founds one more instance on the records of others: with a log and an audit key of its own, under their TLS authority.
///
/// # Errors
/// `CONFIG_INVALID` if the certificate is not that of the authority whose key is recorded; those of custody.
pub async fn found_beside(custody: &Arc<Custody>, caller: &Caller, tls_authority_pem: String) -> Result<Founded> {
    let key = custody.key(TLS_KEY).await?;
    Authority::open(tls_authority_pem.clone(), &key.record.public)?;
    make(custody, caller, &audit_key_beside(&custody.store().head().log), KeyRole::Audit).await?;
    let audit_trust = custody.begin_trust(Instant::now() + ACT).await?.to_string();
    Ok(Founded { tls_authority_pem, audit_trust })
}

/// Makes one of the instance's keys.
async fn make(custody: &Arc<Custody>, caller: &Caller, name: &str, role: KeyRole) -> Result<()> {
    let asked = Asked { operation: Operation::FoundInstance, cluster: None, signs: None };
    let (token, _) = custody.default_token()?;
    // These keys are P-256; the mode says no more than that their hash is SHA-256.
    let making = Making { name: name.into(), role, mode: Mode::Two, token: token.to_owned(), beside: Vec::new() };
    custody.generate(policy::permit(caller, &asked)?, making, Instant::now() + ACT).await?.answer();
    Ok(())
}

/// Puts a new key, made in the same token, in the place of the audit key. Gives its name and the history of audit keys.
///
/// # Errors
/// `PERMISSION_DENIED`; those of custody. A key that was made before something failed is recorded and not used.
pub async fn rotate_audit_key(custody: &Arc<Custody>, caller: &Caller) -> Result<(String, Trust)> {
    let asked = Asked { operation: Operation::RotateAuditKey, cluster: None, signs: None };
    let permit = policy::permit(caller, &asked)?;
    let (name, token) = custody.next_audit_key().await?;
    let making = Making { name: name.clone(), role: KeyRole::Audit, mode: Mode::Two, token, beside: Vec::new() };
    custody.generate(permit, making, Instant::now() + ACT).await?.answer();
    let trust = custody.hand_over(policy::permit(caller, &asked)?, &name).await?;
    Ok((name, trust))
}

/// Has a certificate signed by the TLS authority's key.
///
/// # Errors
/// `PERMISSION_DENIED`; those of custody.
pub async fn sign(
    custody: &Arc<Custody>,
    caller: &Caller,
    operation: Operation,
    subject: &str,
    unsigned: Unsigned,
) -> Result<Issued> {
    let signs = Some((KeyRole::TlsCa, DocumentKind::TlsCertificate));
    let permit = policy::permit(caller, &Asked { operation, cluster: caller.cluster(), signs })?;
    let key = custody.key(TLS_KEY).await?;
    custody.sign_tls(permit, key, subject, unsigned, Instant::now() + ACT).await
}
