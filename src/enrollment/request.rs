//! The enrollment request as a file (MS-RMPR 3.6.4.2): what a cluster asks to be certified as.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::cluster::{self, Cluster};
use crate::error::{Error, Reason, Result};
use crate::key::{PublicKey, RsaPublicKey};
use crate::xrml::markup::Element;
use crate::xrml::message::Message;
use crate::xrml::value::key_from_der;

/// Most revocation authorities of one request.
pub const REVOCATION_AUTHORITIES_MAX: usize = 16;

/// An enrollment request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Third parties that may revoke what the cluster issues; none for standard revocation.
    pub revocation: Vec<RsaPublicKey>,
    /// The cluster's public key.
    pub key: RsaPublicKey,
    /// The server GUID.
    pub guid: Uuid,
    /// Product.
    pub sku: String,
    /// Version of the product.
    pub version: String,
    /// Name of the server.
    pub name: String,
    /// Base URL of the licensing service.
    pub url: String,
}

impl Request {
    /// The request of a cluster.
    ///
    /// # Errors
    /// `INTERNAL` if its key is not RSA.
    pub fn of(cluster: &Cluster, public: &PublicKey) -> Result<Self> {
        let PublicKey::Rsa(key) = public else {
            return Err(Error::new(Reason::Internal, "a licensor key is RSA"));
        };
        Ok(Request {
            revocation: cluster.revocation.clone(),
            key: key.clone(),
            guid: cluster.guid,
            sku: cluster.sku.clone(),
            version: cluster.version.clone(),
            name: cluster.server_name.clone(),
            url: cluster.url.clone(),
        })
    }

    /// The file: ASCII, the same bytes for the same request.
    #[must_use]
    pub fn write(&self) -> String {
        let leaf = |name: &str, text: &str| format!("<{name}>{}</{name}>", quick_xml::escape::escape(text));
        let key = |key: &RsaPublicKey| STANDARD.encode(key.pkcs1_der());
        let revocation = if self.revocation.is_empty() {
            leaf("RevocationType", "StandardRevocation")
        } else {
            let authorities: String = self
                .revocation
                .iter()
                .map(|authority| {
                    let key = leaf("aRevocationAuthorityPublicKey", &key(authority));
                    format!("<RevocationAuthorityInformation>{key}</RevocationAuthorityInformation>")
                })
                .collect();
            let kind = leaf("RevocationType", "CustomRevocation");
            format!("{kind}<aRevocationAuthorities>{authorities}</aRevocationAuthorities>")
        };
        let certificate = leaf("aPublicKeyBytes", &key(&self.key)) + &leaf("Guid", &self.guid.to_string());
        let enrollee = [("SKU", &self.sku), ("Version", &self.version), ("Name", &self.name), ("URL", &self.url)]
            .map(|(name, text)| leaf(name, text))
            .concat();
        format!(
            "<?xml version=\"1.0\"?>\r\n<EnrollParameters><RevocationInformation>{revocation}</RevocationInformation>\
             <CertificatePublicKey>{certificate}</CertificatePublicKey>\
             <EnrolleeInformation>{enrollee}</EnrolleeInformation></EnrollParameters>\r\n"
        )
    }

    /// Reads and checks a request.
    ///
    /// # Errors
    /// `DOCUMENT_MALFORMED`, `DOCUMENT_INCOMPLETE`, `DOCUMENT_KIND`, `LIMIT_EXCEEDED` or `INVALID_ARGUMENT`, saying what
    /// cannot be certified.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let message = Message::read(bytes)?;
        let root = message.root();
        if root.name() != "EnrollParameters" {
            return Err(Error::new(
                Reason::DocumentKind,
                format!("the file holds {}, not EnrollParameters", root.name()),
            )
            .hint("take the file that `keyward enroll export` has written"));
        }
        let certificate = root.required("CertificatePublicKey")?;
        let enrollee = root.required("EnrolleeInformation")?;
        let text = |name: &str| Ok::<_, Error>(enrollee.required(name)?.content()?.into_owned());
        let request = Request {
            revocation: read_revocation(root.required("RevocationInformation")?)?,
            key: read_key(certificate.required("aPublicKeyBytes")?)?,
            guid: read_guid(&certificate.required("Guid")?.content()?)?,
            sku: text("SKU")?,
            version: text("Version")?,
            name: text("Name")?,
            url: text("URL")?,
        };
        if request.key.bits() != 2048 {
            return Err(Error::new(
                Reason::InvalidArgument,
                format!("the key has {} bits; this authority certifies keys of 2048 bits (Mode 2)", request.key.bits()),
            ));
        }
        cluster::check_url(&request.url)?;
        for (field, text) in [("Name", &request.name), ("SKU", &request.sku), ("Version", &request.version)] {
            cluster::check_text(field, text)?;
        }
        Ok(request)
    }
}

fn read_revocation(element: Element<'_>) -> Result<Vec<RsaPublicKey>> {
    let list = element.optional("aRevocationAuthorities")?;
    let authorities = list.map_or(Ok(Vec::new()), |list| {
        list.all("RevocationAuthorityInformation")
            .take(REVOCATION_AUTHORITIES_MAX + 1)
            .map(|authority| read_key(authority.required("aRevocationAuthorityPublicKey")?))
            .collect::<Result<Vec<_>>>()
    })?;
    let kind = element.required("RevocationType")?.content()?;
    match (&*kind, authorities.len()) {
        ("StandardRevocation", 0) => Ok(authorities),
        ("CustomRevocation", 1..=REVOCATION_AUTHORITIES_MAX) => Ok(authorities),
        ("StandardRevocation", _) => {
            Err(Error::new(Reason::DocumentIncomplete, "standard revocation names authorities of its own"))
        }
        ("CustomRevocation", 0) => Err(Error::new(Reason::DocumentIncomplete, "custom revocation names no authority")),
        ("CustomRevocation", _) => Err(Error::new(
            Reason::LimitExceeded,
            format!("custom revocation names more than {REVOCATION_AUTHORITIES_MAX} authorities"),
        )),
        _ => Err(Error::new(Reason::DocumentIncomplete, "RevocationType is neither standard nor custom revocation")),
    }
}

fn read_key(element: Element<'_>) -> Result<RsaPublicKey> {
    let der = STANDARD
        .decode(element.content()?.trim())
        .map_err(|_| Error::new(Reason::DocumentIncomplete, format!("{} is not base64", element.name())))?;
    key_from_der(&der)
}

/// A GUID with or without braces: the schema says without, the text says with.
fn read_guid(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text.trim())
        .map_err(|_| Error::new(Reason::DocumentIncomplete, format!("{:?} is no GUID", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(revocation: usize) -> Request {
        let key = |last: u8| RsaPublicKey::new(&[&[0xc1u8; 255][..], &[last]].concat(), 65537).unwrap();
        Request {
            revocation: (0..revocation).map(|n| key(3 + 2 * u8::try_from(n).unwrap())).collect(),
            key: key(1),
            guid: Uuid::from_u128(7),
            sku: "RMS 2.0".into(),
            version: "6.0.0.0".into(),
            name: "RMS-1".into(),
            url: "HTTP://rms:80/_wmcs".into(),
        }
    }

    #[test]
    fn a_request_is_ascii_and_read_back_as_it_was() {
        for revocation in [0, 1, 2] {
            let request = request(revocation);
            let text = request.write();
            assert!(text.is_ascii() && text.starts_with("<?xml version=\"1.0\"?>"));
            assert_eq!(Request::read(text.as_bytes()).unwrap(), request);
            assert_eq!(text, request.write());
        }
    }

    #[test]
    fn what_others_write_is_read_too() {
        let text = request(0).write();
        let braces = text.replace("<Guid>", "<Guid>{").replace("</Guid>", "}</Guid>");
        let laid_out = text.replace("><", ">\r\n  <");
        let wide: Vec<u8> = [0xFF, 0xFE].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let named = "<EnrollParameters xmlns:xsi=\"urn:i\" xmlns=\"urn:e\"";
        let serialized = text.replacen("<EnrollParameters", named, 1);
        assert!(serialized.contains("xmlns"), "{text}");
        for bytes in [braces.as_bytes(), laid_out.as_bytes(), serialized.as_bytes(), &wide] {
            assert_eq!(Request::read(bytes).unwrap(), request(0));
        }
    }

    #[test]
    fn a_request_that_cannot_be_certified_is_refused_with_the_reason() {
        let text = request(1).write();
        let standard = text.replace("CustomRevocation", "StandardRevocation");
        let unknown = text.replace("CustomRevocation", "NonRevocable");
        let cases: &[(&str, String, Reason)] = &[
            ("cut off", text[..text.len() / 2].into(), Reason::DocumentMalformed),
            ("another file", "<XrML></XrML>".into(), Reason::DocumentKind),
            ("authorities without need", standard, Reason::DocumentIncomplete),
            ("a third kind of revocation", unknown, Reason::DocumentIncomplete),
            ("no version", text.replace("6.0.0.0", ""), Reason::InvalidArgument),
            ("no URL", text.replace("HTTP://rms:80/_wmcs", "rms"), Reason::InvalidArgument),
            ("no GUID", text.replace("00000000-", "x-"), Reason::DocumentIncomplete),
            ("two names", text.replace("<Name>", "<Name>a</Name><Name>"), Reason::DocumentIncomplete),
            ("an entity", text.replace("RMS-1", "&x;"), Reason::DocumentForbidden),
        ];
        for (what, text, reason) in cases {
            assert_eq!(Request::read(text.as_bytes()).unwrap_err().reason(), *reason, "{what}");
        }
    }
}
