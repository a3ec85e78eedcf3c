//! Clusters: RMS servers that share one server licensor key.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Reason, Result};
use crate::key::{Hash, Mode, RsaPublicKey};

/// Longest id that people give to clusters and nodes, in characters.
pub const ID_CHARS_MAX: usize = 63;
/// Longest name, product or version that goes into a certificate, in characters.
pub const TEXT_CHARS_MAX: usize = 128;
/// Longest URL of a cluster, in characters.
pub const URL_CHARS_MAX: usize = 512;

/// A cluster's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Resource name, `clusters/{id}`.
    pub name: String,
    /// The server GUID that stands in ISSUER of all it issues (type `MS-DRM-Server`).
    pub guid: Uuid,
    /// Base URL of its licensing service.
    pub url: String,
    /// Cryptographic mode. Never changes.
    pub mode: Mode,
    /// How content keys are sealed to it. Never changes.
    pub seal: SealProfile,
    /// Resource name of the key that signs for it.
    pub slc_key: String,
    /// Name of the server, as it goes into its certificate.
    pub server_name: String,
    /// Product, as it goes into its certificate.
    pub sku: String,
    /// Version of the product, as it goes into its certificate.
    pub version: String,
    /// Third parties that may revoke what it issues; none for standard revocation.
    pub revocation: Vec<RsaPublicKey>,
    /// Its certificate, once it is enrolled. Before that it issues nothing.
    pub slc: Option<Enrolled>,
    /// When it was made: microseconds since 1970, UTC.
    pub created_us: i64,
}

/// What a cluster's enrollment brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Name of the stored certificate chain.
    pub chain: String,
    /// When the certificate begins to issue: microseconds since 1970, UTC.
    pub from_us: i64,
    /// When it ceases to.
    pub until_us: i64,
    /// When it was taken in.
    pub enrolled_us: i64,
}

impl Cluster {
    /// The certificate that may issue at a moment, in microseconds since 1970 (MS-RMPR 3.1.6.2).
    ///
    /// # Errors
    /// `CLUSTER_NOT_ENROLLED` if there is none, `DOCUMENT_DATES` if it does not issue at that moment.
    pub fn issuing(&self, moment_us: i64) -> Result<&Enrolled> {
        let enrolled = self.slc.as_ref().ok_or_else(|| {
            Error::new(Reason::ClusterNotEnrolled, format!("{} has no server licensor certificate yet", self.name))
                .hint("carry its request to the authority and import the response: keyward enroll import")
        })?;
        if moment_us < enrolled.from_us || moment_us >= enrolled.until_us {
            return Err(Error::new(
                Reason::DocumentDates,
                format!("the certificate of {} does not issue at that time", self.name),
            )
            .hint("look at its dates: keyward cluster get"));
        }
        Ok(enrolled)
    }
}

/// The padding under which content keys are sealed to a cluster's key: fixed among what its token can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealProfile {
    /// Mode 1: RSAES-PKCS1-v1_5.
    Pkcs1,
    /// Mode 2 with OAEP over SHA-1.
    OaepSha1,
    /// Mode 2 with OAEP over SHA-256.
    OaepSha256,
}

impl SealProfile {
    /// The profile of a Mode 2 cluster whose token does OAEP with this hash.
    #[must_use]
    pub const fn oaep(hash: Hash) -> Self {
        match hash {
            Hash::Sha1 => SealProfile::OaepSha1,
            Hash::Sha256 => SealProfile::OaepSha256,
        }
    }

    /// The name in records and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SealProfile::Pkcs1 => "pkcs1",
            SealProfile::OaepSha1 => "oaep-sha1",
            SealProfile::OaepSha256 => "oaep-sha256",
        }
    }
}

/// Checks an id that is to become the last part of a resource name (AIP-122): lower-case letters, digits and hyphens,
/// beginning with a letter, at most [`ID_CHARS_MAX`] characters.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn check_id(field: &str, id: &str) -> Result<()> {
    let begins = id.starts_with(|c: char| c.is_ascii_lowercase());
    let holds = id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if begins && holds && id.len() <= ID_CHARS_MAX {
        return Ok(());
    }
    Err(Error::new(
        Reason::InvalidArgument,
        format!(
            "{field} is lower-case letters, digits and hyphens, begins with a letter, and has at most {ID_CHARS_MAX} characters"
        ),
    ))
}

/// Checks a cluster's URL: `http` or `https`, printable, no blank, no character that XML would have to escape.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_url(url: &str) -> Result<()> {
    let scheme = url.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let known = matches!(&scheme, Some((scheme, rest)) if (scheme == "http" || scheme == "https") && !rest.is_empty());
    if known && url.len() <= URL_CHARS_MAX && url.chars().all(|c| c.is_ascii_graphic() && !"<>&\"'".contains(c)) {
        return Ok(());
    }
    Err(Error::new(
        Reason::InvalidArgument,
        format!("{url:?} is no http or https URL of at most {URL_CHARS_MAX} characters"),
    )
    .hint("give the base URL of the cluster's licensing service, such as https://rms.example.com/_wmcs"))
}

/// Checks a text that is to stand in a certificate: 1 to 128 printable ASCII characters that XML need not escape.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn check_text(field: &str, text: &str) -> Result<()> {
    let holds = text.chars().all(|c| (c.is_ascii_graphic() || c == ' ') && !"<>&\"'".contains(c));
    if holds && !text.trim().is_empty() && text.trim() == text && text.len() <= TEXT_CHARS_MAX {
        return Ok(());
    }
    Err(Error::new(
        Reason::InvalidArgument,
        format!("{field} is 1 to {TEXT_CHARS_MAX} printable ASCII characters without <, >, & and quotes"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_resource_names() {
        for good in ["a", "emea-1", &"a".repeat(63)] {
            assert!(check_id("cluster_id", good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", "a_b", "a/b", "ä", &"a".repeat(64)] {
            assert!(check_id("cluster_id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_keep_their_upper_case_scheme_and_refuse_markup() {
        for good in ["https://rms.example.test/_wmcs", "HTTP://rms:80/_wmcs"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "rms", "ftp://x", "https://", "https://a b", "https://a<b", "https://a\nb"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
