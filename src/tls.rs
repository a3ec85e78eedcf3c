//! The trust between this service and its nodes: a certificate authority of its own, for TLS only. Its key is in the
//! token: this room says what is to be signed and puts the signature in its place.

use std::sync::Mutex;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey as RequestKey,
    PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::key::{PublicKey, ecdsa_der};

/// Life of the authority's own certificate, in days.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Life of a server certificate, in days. A fresh one is made at each start.
pub const SERVER_DAYS: i64 = 730;
/// Longest life of a client certificate, in days.
pub const CLIENT_DAYS_MAX: u32 = 825;
/// Clocks of nodes may stand this far behind, in minutes.
const BACKDATED_MINUTES: i64 = 15;

/// The authority that issues client and server certificates, without its private key.
#[derive(Clone, Debug)]
pub struct Authority {
    point: Vec<u8>,
    certificate_pem: String,
}

/// A certificate that waits for the authority's signature.
pub struct Unsigned {
    params: CertificateParams,
    subject: Subject,
    point: Vec<u8>,
    authority_pem: Option<String>,
}

/// Whose key a certificate is for.
enum Subject {
    /// The authority's own.
    Authority,
    /// A key that was made for a server here.
    Server(KeyPair),
    /// The key of a request.
    Request(RequestKey),
}

/// A server's certificate and its private key.
pub struct Identity {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key (PKCS#8), PEM. A transport key, not a key of custody.
    pub key_pem: Zeroizing<String>,
}

/// A certificate as issued.
pub struct Issued {
    /// PEM.
    pub certificate_pem: String,
    /// SHA-256 of its DER, hexadecimal.
    pub sha256: String,
    /// When it ends: microseconds since 1970, UTC.
    pub expires_us: i64,
    /// The private key of a server certificate.
    pub key_pem: Option<Zeroizing<String>>,
}

impl Authority {
    /// A new authority's own certificate, to be signed by the key that it names.
    ///
    /// # Errors
    /// `INTERNAL` if `key` is not P-256.
    pub fn found(name: &str, key: &PublicKey) -> Result<Unsigned> {
        let mut params = params(name, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Unsigned { params, subject: Subject::Authority, point: point(key)?, authority_pem: None })
    }

    /// An authority that was founded before.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if the certificate does not parse, `INTERNAL` if `key` is not P-256.
    pub fn open(certificate_pem: String, key: &PublicKey) -> Result<Self> {
        Authority::check(&certificate_pem)?;
        Ok(Authority { point: point(key)?, certificate_pem })
    }

    /// Whether this key was named when the authority was opened.
    #[must_use]
    pub fn has(&self, key: &PublicKey) -> bool {
        point(key).is_ok_and(|point| point == self.point)
    }

    /// Whether a text is an authority's certificate.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if it does not parse.
    pub fn check(certificate_pem: &str) -> Result<()> {
        Issuer::from_ca_cert_pem(certificate_pem, Remote::looking(&[])).map(drop).map_err(|fault| {
            Error::new(Reason::ConfigInvalid, "the TLS authority's certificate does not parse")
                .hint("bring the file back from a backup: it was made when the instance was made")
                .detail(fault)
        })
    }

    /// The authority's certificate: what clients trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A server certificate for these names and addresses, and a fresh key for it.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for a name that is none.
    pub fn server(&self, names: &[String]) -> Result<Unsigned> {
        let mut params = params("keyward", SERVER_DAYS)?;
        params.subject_alt_names = CertificateParams::new(names.to_vec())
            .map_err(|fault| {
                Error::new(Reason::ConfigInvalid, "a server name is no DNS name or address").detail(fault)
            })?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(self.unsigned(params, Subject::Server(KeyPair::generate().map_err(internal)?)))
    }

    /// A client certificate for the public key of a PKCS#10 request. Whatever else the request says, names and
    /// extensions, is ignored: the subject is `name`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the request does not parse or its self-signature does not hold.
    pub fn client(&self, request_pem: &str, name: &str, days: u32) -> Result<Unsigned> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|fault| {
            Error::new(Reason::InvalidArgument, "the certificate request is no PKCS#10 request that verifies")
                .detail(fault)
        })?;
        let mut params = params(name, i64::from(days))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(self.unsigned(params, Subject::Request(request.public_key)))
    }

    fn unsigned(&self, params: CertificateParams, subject: Subject) -> Unsigned {
        Unsigned { params, subject, point: self.point.clone(), authority_pem: Some(self.certificate_pem.clone()) }
    }
}

impl Unsigned {
    /// SHA-256 of the part that is signed (TBSCertificate, RFC 5280, 4.1).
    ///
    /// # Errors
    /// `INTERNAL` if the certificate cannot be written.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let signer = Remote::looking(&self.point);
        self.write(&signer).map_err(internal)?;
        let seen = signer.seen.into_inner().unwrap_or_default().unwrap_or_default();
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &seen).as_ref());
        Ok(digest)
    }

    /// The certificate, with the authority's signature over [`Unsigned::digest`] as the token gives it: r‖s.
    ///
    /// # Errors
    /// `INTERNAL` if the signature has another length than 64 bytes.
    pub fn certificate(self, r_s: &[u8]) -> Result<Issued> {
        let signature = ecdsa_der(r_s).ok_or_else(|| Error::new(Reason::Internal, "a P-256 signature has 64 bytes"))?;
        let signer = Remote { point: self.point.clone(), signature, seen: Mutex::default() };
        let certificate = self.write(&signer).map_err(internal)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            sha256: fingerprint(certificate.der()),
            expires_us: clock::micros(self.params.not_after),
            key_pem: match &self.subject {
                Subject::Server(key) => Some(Zeroizing::new(key.serialize_pem())),
                _ => None,
            },
        })
    }

    fn write(&self, signer: &Remote) -> Result<Certificate, rcgen::Error> {
        match (&self.subject, &self.authority_pem) {
            (Subject::Server(key), Some(pem)) => self.params.signed_by(key, &Issuer::from_ca_cert_pem(pem, signer)?),
            (Subject::Request(key), Some(pem)) => self.params.signed_by(key, &Issuer::from_ca_cert_pem(pem, signer)?),
            _ => self.params.self_signed(signer),
        }
    }
}

/// The authority's key, as the certificate writer sees it: what it is asked to sign is remembered, and the signature
/// is one that was made before or an empty one.
struct Remote {
    point: Vec<u8>,
    signature: Vec<u8>,
    seen: Mutex<Option<Vec<u8>>>,
}

impl Remote {
    fn looking(point: &[u8]) -> Self {
        Remote { point: point.to_vec(), signature: Vec::new(), seen: Mutex::default() }
    }
}

impl PublicKeyData for Remote {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Remote {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(message.to_vec());
        }
        Ok(self.signature.clone())
    }
}

fn point(key: &PublicKey) -> Result<Vec<u8>> {
    match key {
        PublicKey::P256 { point } => Ok(point.clone()),
        PublicKey::Rsa(_) => Err(Error::new(Reason::Internal, "the TLS authority's key is P-256")),
    }
}

/// Makes a key pair and a PKCS#10 request for it, both PEM. Runs where the key will be used.
///
/// # Errors
/// `INTERNAL` if no key can be made.
pub fn request() -> Result<(String, Zeroizing<String>)> {
    let key = KeyPair::generate().map_err(internal)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(internal)?.pem().map_err(internal)?;
    Ok((request, Zeroizing::new(key.serialize_pem())))
}

/// How records name a certificate: SHA-256 of its DER, hexadecimal.
#[must_use]
pub fn fingerprint(certificate_der: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate_der))
}

fn params(name: &str, days: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from(clock::random::<16>()?.to_vec()));
    let now: OffsetDateTime = clock::now();
    params.not_before = now - Duration::minutes(BACKDATED_MINUTES);
    params.not_after = now + Duration::days(days);
    Ok(params)
}

fn internal(fault: rcgen::Error) -> Error {
    Error::new(Reason::Internal, "a certificate cannot be made").detail(fault)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    /// What a token would do, with a key that this test has.
    fn founded() -> (Authority, EcdsaKeyPair) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = PublicKey::P256 { point: key.public_key().as_ref().to_vec() };
        let issued = sign(Authority::found("test", &public).unwrap(), &key);
        (Authority::open(issued.certificate_pem, &public).unwrap(), key)
    }

    fn sign(unsigned: Unsigned, key: &EcdsaKeyPair) -> Issued {
        let digest = unsigned.digest().unwrap();
        assert_eq!(digest, unsigned.digest().unwrap(), "the same text each time");
        let digest = aws_lc_rs::digest::Digest::import_less_safe(&digest, &aws_lc_rs::digest::SHA256).unwrap();
        let signature = key.sign_digest(&digest).unwrap();
        unsigned.certificate(signature.as_ref()).unwrap()
    }

    #[test]
    fn names_in_a_request_are_ignored() {
        let (authority, signer) = founded();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "operator");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let issued = sign(authority.client(&request, "clusters/a/nodes/n", 30).unwrap(), &signer);
        let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap().to_vec();
        let holds = |words: &str| der.windows(words.len()).any(|window| window == words.as_bytes());
        assert!(holds("clusters/a/nodes/n") && !holds("evil") && !holds("operator"));
        assert_eq!(issued.sha256, fingerprint(&der));
    }

    #[test]
    fn a_text_that_is_no_request_is_the_callers_fault() {
        let fault = founded().0.client("-----BEGIN NOTHING-----", "n", 1).err().unwrap();
        assert_eq!(fault.reason(), Reason::InvalidArgument);
    }
}
