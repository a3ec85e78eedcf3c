//! The act of signing a document with a cluster's key.

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest::Digest as RawDigest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::audit::checkpoint;
use crate::audit::note::{Note, VerifierKey};
use crate::audit::record::ActNote;
use crate::custody::{AsyncAct, Custody, Failed, Held, KeyRecord, Recorded, Verified};
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyRole, PublicKey};
use crate::policy::{self, DocumentKind, Permit};
use crate::tls::{Issued, Unsigned};
use crate::token::Token;
use crate::token::lane::Priority;
use crate::xrml::signature::Digest;

/// What will be signed, as it goes into the record.
#[derive(Clone, Debug)]
pub struct Signing {
    /// Kind of document.
    pub kind: DocumentKind,
    /// GUID in its DESCRIPTOR.
    pub guid: String,
    /// Its ISSUEDTIME, as written.
    pub issued: String,
    /// Digest of its BODY.
    pub digest: Digest,
}

const UNVERIFIED: &str = "the token's signature does not verify with the recorded public key";

struct Sign {
    key: Arc<Held>,
    priority: Priority,
    hash: Hash,
    digest: Vec<u8>,
    deadline: Instant,
}

impl Custody {
    /// Signs a document's digest. The signature is RSASSA-PKCS1-v1_5, big-endian, as long as the modulus.
    ///
    /// # Errors
    /// `KEY_STATE`, `KEY_MISSING`; the token's and the store's.
    pub async fn sign(
        self: &Arc<Self>,
        permit: Permit,
        key: Arc<Held>,
        signing: Signing,
        deadline: Instant,
    ) -> Result<Recorded<Vec<u8>>> {
        policy::may_sign(key.record.role, key.record.state)?;
        permit.require(&key.record.name, key.record.role, signing.kind)?;
        let hash = signing.digest.hash();
        if hash != key.record.mode.hash() {
            return Err(Error::new(Reason::Internal, "the digest is not of the key's mode"));
        }
        let digest = signing.digest.bytes().to_vec();
        // Somebody waits for a license; all else can wait for that.
        let priority = if signing.kind == DocumentKind::UseLicense { Priority::License } else { Priority::Bulk };
        let note = ActNote::SignDocument {
            key: key.record.name.clone(),
            kind: signing.kind.name().to_owned(),
            guid: signing.guid,
            issued: signing.issued,
            digest: format!("{}:{}", hash_name(hash), hex::encode(&digest)),
        };
        self.perform(permit, note, Sign { key, priority, hash, digest, deadline }).await
    }

    /// Signs a certificate of the TLS authority.
    ///
    /// # Errors
    /// As [`Custody::sign`].
    pub async fn sign_tls(
        self: &Arc<Self>,
        permit: Permit,
        key: Arc<Held>,
        subject: &str,
        unsigned: Unsigned,
        deadline: Instant,
    ) -> Result<Issued> {
        policy::may_sign(key.record.role, key.record.state)?;
        permit.require(&key.record.name, key.record.role, DocumentKind::TlsCertificate)?;
        let digest = unsigned.digest()?.to_vec();
        let note = ActNote::SignTlsCertificate {
            key: key.record.name.clone(),
            subject: subject.to_owned(),
            digest: format!("sha256:{}", hex::encode(&digest)),
        };
        let act = Sign { key, priority: Priority::Bulk, hash: Hash::Sha256, digest, deadline };
        let signed = self.perform(permit, note, act).await?;
        unsigned.certificate(&signed.answer())
    }

    /// Signs a note of the log with the audit key. No intent stands before it: the note itself is the record of it,
    /// and it can say nothing but where a log ends, which key signs for it, or that another log's end was seen.
    pub(super) async fn sign_note(&self, key: &Held, mut note: Note, deadline: Instant) -> Result<Note> {
        if key.record.role != KeyRole::Audit {
            return Err(Error::new(Reason::Internal, "only the audit key signs notes"));
        }
        policy::may_sign(key.record.role, key.record.state)?;
        let verifier = VerifierKey::new(&checkpoint::origin(&self.store.head().log), &key.record.public)?;
        let (in_token, digest) = (key.record.in_token(), note.digest());
        let act = move |token: &dyn Token| token.sign(&in_token, Hash::Sha256, &digest);
        // Licenses are not signed while the log is not: a checkpoint must not wait behind all of them.
        let asked = self.ask(&key.record.token, Priority::License, deadline, act).await.map_err(Failed::error)?;
        if let Err(fault) = note.add(&verifier, &asked.value) {
            self.quarantine(&key.record.token, &asked.replica, fault.message()).await;
            return Err(Error::new(Reason::TokenMismatch, fault.message()));
        }
        Ok(note)
    }
}

impl AsyncAct<Vec<u8>> for Sign {
    async fn run(self, custody: &Custody) -> Result<Verified<Vec<u8>>, Failed> {
        let Sign { key, priority, hash, digest, deadline } = self;
        let (in_token, for_token) = (key.record.in_token(), digest.clone());
        let token = key.record.token.as_str();
        let act = move |device: &dyn Token| device.sign(&in_token, hash, &for_token);
        let mut wrong = Vec::new();
        loop {
            let served = match custody.ask(token, priority, deadline, act.clone()).await {
                Ok(served) => served,
                // A signature that was not released is the reason, not that nobody is left to make another.
                Err(failed) => {
                    if let Some(why) = failed.key_missing() {
                        custody.miss(&key.record.name, why).await;
                    }
                    return Err(if wrong.is_empty() { failed } else { all_wrong(&wrong) });
                }
            };
            match check(&key.verifier, hash, &digest, &served.value) {
                Ok(()) => {
                    let text = STANDARD.encode(&served.value);
                    return Ok(Verified::new(served.value, text, Vec::new()));
                }
                // Each round leaves one replica out, so this ends.
                Err(fault) => {
                    custody.quarantine(token, &served.replica, fault.message()).await;
                    wrong.push(served.replica);
                }
            }
        }
    }
}

/// The verifier of a key's signatures.
pub(super) fn verifier(key: &KeyRecord) -> Result<ParsedPublicKey> {
    let broken = || Error::new(Reason::RecordBroken, format!("the public key of {} cannot be used", key.name));
    match &key.public {
        PublicKey::Rsa(rsa) => match key.mode.hash() {
            Hash::Sha256 => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.pkcs1_der()),
            Hash::Sha1 => ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, rsa.pkcs1_der()),
        },
        PublicKey::P256 { point } => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point),
    }
    .map_err(|_| broken())
}

/// Checks a signature over a digest with the recorded public key.
///
/// # Errors
/// `TOKEN_MISMATCH`: the signature must not be released and the token must not be asked again.
pub(super) fn check(verifier: &ParsedPublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> Result<()> {
    let algorithm = match hash {
        Hash::Sha1 => &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &aws_lc_rs::digest::SHA256,
    };
    let digest = RawDigest::import_less_safe(digest, algorithm)
        .map_err(|_| Error::new(Reason::Internal, "the digest does not have its hash's length"))?;
    verifier.verify_digest_sig(&digest, signature).map_err(|_| Error::new(Reason::TokenMismatch, UNVERIFIED))
}

/// Nobody is left to make another signature than those that did not verify.
fn all_wrong(replicas: &[String]) -> Failed {
    let wrong = format!("wrong signatures by {}", replicas.join(" and "));
    Failed::from(Error::new(Reason::TokenMismatch, UNVERIFIED).detail(wrong)).afterwards()
}

const fn hash_name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "sha1",
        Hash::Sha256 => "sha256",
    }
}
