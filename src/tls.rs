//! The trust between this service and its nodes: a certificate authority of its own, for TLS only.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::clock;
use crate::error::{Error, Reason, Result};

/// Life of the authority's own certificate, in days.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Life of a server certificate, in days. A fresh one is made at each start.
pub const SERVER_DAYS: i64 = 730;
/// Longest life of a client certificate, in days.
pub const CLIENT_DAYS_MAX: u32 = 825;
/// Clocks of nodes may stand this far behind, in minutes.
const BACKDATED_MINUTES: i64 = 15;

/// A certificate and its private key, both PEM.
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS#8). A transport key, not a key of custody.
    pub key_pem: Zeroizing<String>,
}

/// The authority that issues client and server certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A client certificate as issued.
pub struct ClientCertificate {
    /// PEM.
    pub certificate_pem: String,
    /// SHA-256 of its DER, hexadecimal.
    pub sha256: String,
    /// When it ends: microseconds since 1970, UTC.
    pub expires_us: i64,
}

impl Authority {
    /// Makes a new authority: P-256, self-signed.
    ///
    /// # Errors
    /// `INTERNAL` if no key can be made.
    pub fn create(name: &str) -> Result<Identity> {
        let key = KeyPair::generate().map_err(internal)?;
        let mut params = params(name, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(internal)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }

    /// Opens an authority that was made before.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if certificate or key does not parse.
    pub fn open(identity: &Identity) -> Result<Self> {
        let config = |fault: rcgen::Error| {
            Error::new(Reason::ConfigInvalid, "the TLS authority's certificate or key does not parse").detail(fault)
        };
        let key = KeyPair::from_pem(&identity.key_pem).map_err(config)?;
        let issuer = Issuer::from_ca_cert_pem(&identity.certificate_pem, key).map_err(config)?;
        Ok(Authority { issuer, certificate_pem: identity.certificate_pem.clone() })
    }

    /// The authority's certificate: what clients trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a server certificate for these names and addresses.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for a name that is none.
    pub fn server(&self, names: &[String]) -> Result<Identity> {
        let key = KeyPair::generate().map_err(internal)?;
        let mut params = params("keyward", SERVER_DAYS)?;
        params.subject_alt_names = CertificateParams::new(names.to_vec())
            .map_err(|fault| {
                Error::new(Reason::ConfigInvalid, "a server name is no DNS name or address").detail(fault)
            })?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).map_err(internal)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }

    /// Issues a client certificate for the public key of a PKCS#10 request. Whatever else the request says, names and
    /// extensions, is ignored: the subject is `name`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the request does not parse or its self-signature does not hold.
    pub fn client(&self, request_pem: &str, name: &str, days: u32) -> Result<ClientCertificate> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|fault| {
            Error::new(Reason::InvalidArgument, "the certificate request is no PKCS#10 request that verifies")
                .detail(fault)
        })?;
        let mut params = params(name, i64::from(days))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let expires_us = clock::micros(params.not_after);
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(internal)?;
        Ok(ClientCertificate { certificate_pem: certificate.pem(), sha256: fingerprint(certificate.der()), expires_us })
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
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn names_in_a_request_are_ignored() {
        let authority = Authority::open(&Authority::create("test").unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "operator");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let issued = authority.client(&request, "clusters/a/nodes/n", 30).unwrap();
        let der = der(&issued.certificate_pem);
        let holds = |words: &str| der.windows(words.len()).any(|window| window == words.as_bytes());
        assert!(holds("clusters/a/nodes/n") && !holds("evil") && !holds("operator"));
        assert_eq!(issued.sha256, fingerprint(&der));
    }

    #[test]
    fn a_text_that_is_no_request_is_the_callers_fault() {
        let authority = Authority::open(&Authority::create("test").unwrap()).unwrap();
        let fault = authority.client("-----BEGIN NOTHING-----", "n", 1).err().unwrap();
        assert_eq!(fault.reason(), Reason::InvalidArgument);
    }
}
