//! Rights data: what a publishing license encrypts, and how (MS-RMPR 2.2.9.8).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::content::{Content, end, write_descriptor};
use super::element::{DistributionPoint, Object, Principal};
use super::kind::{Kind, OFFICIAL_TEMPLATE, RIGHTS_TEMPLATE};
use super::license::{AuthenticatedData, Conditions, Work};
use super::policy::PolicyList;
use super::sealed::{ContentKey, decrypt_blocks, encrypt_blocks};
use super::text::{Body, Document};
use super::time::{Range, XrmlTime};
use super::write::Xml;
use crate::error::{Error, Reason, Result};

/// Rights of one content: written by its author, or the verbatim copy of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RightsData {
    /// Whether it is a template's copy: `Microsoft Official Rights Template`.
    pub is_official: bool,
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// VALIDITYTIME: not among what authors write, and a bound on everything where it stands.
    pub validity: Option<Range>,
    /// DESCRIPTOR: the template's GUID and names.
    pub descriptor: Option<Object>,
    /// ISSUER, in a template.
    pub issuer: Option<Principal>,
    /// Where a template was published, and where to ask for more rights.
    pub points: Vec<DistributionPoint>,
    /// Content, owner, preconditions and rights.
    pub work: Work,
    /// CONDITIONLIST of the whole document: not among what authors write, and a bound on everything where it stands.
    pub conditions: Option<Conditions>,
    /// Applications' data, among it switches as NOLICCACHE.
    pub data: Vec<AuthenticatedData>,
    /// Applications shut out or let in.
    pub policies: Vec<PolicyList>,
}

impl RightsData {
    /// Reads a BODY as rights data, a template included.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<RightsData> {
        let is_official = Kind::expect(&[Kind::RightsData, Kind::Template], body)? == Kind::Template;
        let content = Content::read(body)?;
        check(&content)?;
        RightsData::of(content, is_official)
    }

    /// Takes rights data out of a view that was checked.
    pub(super) fn of(content: Content, is_official: bool) -> Result<RightsData> {
        Ok(RightsData {
            is_official,
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            validity: content.validity,
            descriptor: content.descriptor,
            issuer: content.issuer,
            points: content.points,
            work: Content::required(content.work, "WORK")?,
            conditions: content.conditions,
            data: content.data,
            policies: content.policies,
        })
    }

    /// Writes the BODY. A template has no version attribute.
    ///
    /// # Errors
    /// As [`RightsData::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = Xml::new();
        match self.is_official {
            true => xml.open("BODY", &[("type", OFFICIAL_TEMPLATE)]),
            false => xml.open("BODY", &[("type", RIGHTS_TEMPLATE), ("version", "3.0")]),
        }
        xml.leaf("ISSUEDTIME", &[], &self.issued_time.to_string());
        if let Some(validity) = &self.validity {
            validity.write("VALIDITYTIME", &mut xml);
        }
        if let Some(descriptor) = &self.descriptor {
            write_descriptor(descriptor, &mut xml);
        }
        if let Some(issuer) = &self.issuer {
            issuer.write("ISSUER", &mut xml);
        }
        self.points.iter().for_each(|point| point.write(&mut xml));
        self.work.write(false, &mut xml);
        if let Some(conditions) = &self.conditions {
            conditions.write(false, &mut xml);
        }
        self.data.iter().for_each(|data| data.write(&mut xml));
        self.policies.iter().for_each(|policy| policy.write(&mut xml));
        end(xml, self, RightsData::read)
    }

    /// The value of an application's data.
    #[must_use]
    pub fn application(&self, name: &str) -> Option<&str> {
        self.data.iter().find(|data| data.name.as_deref() == Some(name)).map(|data| data.value.as_str())
    }
}

/// Refuses a view that is no rights data.
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    Content::required(content.work.as_ref(), "WORK").map(|_| ())
}

/// Encrypts the text of rights data: UTF-16LE, zeros up to a full block, AES in ECB mode, base64. The format leaves no
/// choice; equal blocks of text show as equal blocks.
///
/// # Errors
/// `INVALID_ARGUMENT` for a key that is not AES.
pub fn encrypt(text: &str, key: &ContentKey) -> Result<String> {
    let mut bytes = Zeroizing::new(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    let length = bytes.len().next_multiple_of(16);
    bytes.resize(length, 0);
    encrypt_blocks(key.key(), &mut bytes)?;
    Ok(STANDARD.encode(&*bytes))
}

/// Decrypts rights data to the document that it is; a template's copy brings its signature.
///
/// # Errors
/// `UNSEAL_FAILED` for whatever is wrong with ciphertext or key, or the errors of the document within.
pub fn decrypt(base64: &str, key: &ContentKey) -> Result<Document> {
    let failed = || Error::new(Reason::UnsealFailed, "the rights data cannot be read with the content key");
    let ciphertext = STANDARD.decode(base64.trim_matches(['\t', '\n', '\r', ' '])).map_err(|_| failed())?;
    let mut bytes = Zeroizing::new(ciphertext);
    if bytes.is_empty() || !bytes.len().is_multiple_of(16) {
        return Err(failed());
    }
    decrypt_blocks(key.key(), &mut bytes).map_err(|_| failed())?;
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    let text: String = char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| failed())?;
    let text = Zeroizing::new(text);
    let text = text.trim_end_matches('\0');
    if !text.starts_with('<') {
        return Err(failed());
    }
    Document::read_unsigned(text)
}
