//! Elements that every kind of document is made of: objects, principals, distribution points (MS-RMPR 2.2.9.1).

use serde::{Deserialize, Serialize};

use super::markup::{Element, incomplete, read_each};
use super::value::{hash_name, hash_named, read_base64, read_key, read_value, write_key, write_value};
use super::write::Xml;
use crate::error::Result;
use crate::key::{Hash, RsaPublicKey};

/// ID: a value and what it is. `MS-GUID`, `ascii-tag`, `Windows` (SID), `Federation`, `Passport`, `Unspecified`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// Attribute `type`.
    pub kind: String,
    /// The text, empty where an ID only names its type.
    pub value: String,
}

impl Id {
    /// An ID of type MS-GUID.
    #[must_use]
    pub fn guid(value: impl Into<String>) -> Self {
        Id { kind: "MS-GUID".into(), value: value.into() }
    }

    /// An ID of type ascii-tag.
    #[must_use]
    pub fn tag(value: impl Into<String>) -> Self {
        Id { kind: "ascii-tag".into(), value: value.into() }
    }

    /// Whether both name the same: GUIDs and SIDs without regard to letter case, everything else exactly.
    #[must_use]
    pub fn is_same(&self, other: &Id) -> bool {
        match self.kind.as_str() {
            "MS-GUID" | "Windows" => other.kind == self.kind && self.value.eq_ignore_ascii_case(&other.value),
            _ => self == other,
        }
    }

    /// Whether this is a GUID in its form on the wire, `{8-4-4-4-12}`.
    #[must_use]
    pub fn is_guid(&self) -> bool {
        let Some(inner) = self.value.strip_prefix('{').and_then(|v| v.strip_suffix('}')) else { return false };
        let groups: Vec<&str> = inner.split('-').collect();
        self.kind == "MS-GUID"
            && groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
            && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    fn read(element: Element<'_>) -> Result<Self> {
        let kind = element.required_attribute("type")?.into_owned();
        Ok(Id { kind, value: element.content()?.into_owned() })
    }
}

/// ADDRESS: `URL` or `email_alias`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Attribute `type`.
    pub kind: String,
    /// The text, letter case kept.
    pub value: String,
}

/// OBJECT: something named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Attribute `type`, where there is one.
    pub kind: Option<String>,
    /// ID.
    pub id: Id,
    /// NAME: free text, any Unicode, line feeds kept.
    pub name: Option<String>,
    /// ADDRESS: at most one URL in most places, several mail aliases for a federated user.
    pub addresses: Vec<Address>,
}

impl Object {
    /// An object of a type with an ID and nothing else.
    #[must_use]
    pub fn new(kind: &str, id: Id) -> Self {
        Object { kind: Some(kind.to_owned()), id, ..Object::default() }
    }

    /// With a NAME.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With an ADDRESS of type URL.
    #[must_use]
    pub fn at(mut self, url: impl Into<String>) -> Self {
        self.addresses.push(Address { kind: "URL".into(), value: url.into() });
        self
    }

    /// Attribute `type`, empty if there is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// The first ADDRESS of type URL.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.addresses.iter().find(|address| address.kind == "URL").map(|address| address.value.as_str())
    }

    /// The GUID of a document or content.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if the ID is not a GUID.
    pub fn required_guid(&self, whose: &str) -> Result<&str> {
        if !self.id.is_guid() {
            return Err(incomplete(format!("the ID of {whose} is not a GUID in braces")));
        }
        Ok(&self.id.value)
    }

    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let addresses = read_each(element.all("ADDRESS"), |address| {
            let kind = address.required_attribute("type")?.into_owned();
            Ok(Address { kind, value: address.content()?.into_owned() })
        });
        Ok(Object {
            kind: element.attribute("type").map(Into::into),
            id: Id::read(element.required("ID")?)?,
            name: element
                .optional("NAME")?
                .map(|name| Ok::<_, crate::error::Error>(name.content()?.into_owned()))
                .transpose()?,
            addresses: addresses?,
        })
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        match &self.kind {
            Some(kind) => xml.open("OBJECT", &[("type", kind)]),
            None => xml.open("OBJECT", &[]),
        }
        xml.leaf("ID", &[("type", &self.id.kind)], &self.id.value);
        if let Some(name) = &self.name {
            xml.leaf("NAME", &[], name);
        }
        for address in &self.addresses {
            xml.leaf("ADDRESS", &[("type", &address.kind)], &address.value);
        }
        xml.close("OBJECT");
    }
}

/// SECURITYLEVEL: a named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityLevel {
    /// Attribute `name`.
    pub name: String,
    /// Attribute `value`.
    pub value: String,
}

impl SecurityLevel {
    /// A named value.
    #[must_use]
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        SecurityLevel { name: name.to_owned(), value: value.into() }
    }
}

/// The two forms of a sealed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SealForm {
    /// `sealed-key`: RSAES-PKCS1-v1_5 and SHA-1.
    #[serde(rename = "sealed-key")]
    V1,
    /// `sealed-key-v2`: RSAES-OAEP and SHA-256.
    #[serde(rename = "sealed-key-v2")]
    V2,
}

impl SealForm {
    /// The attribute `type` of ENABLINGBITS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SealForm::V1 => "sealed-key",
            SealForm::V2 => "sealed-key-v2",
        }
    }

    /// The hash that binds the sealed key to its document.
    #[must_use]
    pub const fn hash(self) -> Hash {
        match self {
            SealForm::V1 => Hash::Sha1,
            SealForm::V2 => Hash::Sha256,
        }
    }
}

/// ENABLINGBITS: a key sealed to somebody's public key. Ciphertext, so no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnablingBits {
    /// Attribute `type`.
    pub form: SealForm,
    /// RSA block, then the symmetric tail.
    pub raw: Vec<u8>,
}

impl EnablingBits {
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let form = match &*element.required_attribute("type")? {
            "sealed-key" => SealForm::V1,
            "sealed-key-v2" => SealForm::V2,
            _ => return Err(incomplete("ENABLINGBITS has a type other than sealed-key and sealed-key-v2")),
        };
        Ok(EnablingBits { form, raw: read_value(element.required("VALUE")?)? })
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        xml.open("ENABLINGBITS", &[("type", self.form.name())]);
        write_value(&self.raw, xml);
        xml.close("ENABLINGBITS");
    }
}

/// DIGEST of a machine's hardware id. A real one says 160 bits and has 512, so its size is kept and not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareId {
    /// The hash function it names.
    pub hash: Hash,
    /// Attribute `size`, as written.
    pub size: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl HardwareId {
    fn read(element: Element<'_>) -> Result<Self> {
        let value = element.required("VALUE")?;
        Ok(HardwareId {
            hash: hash_named(&element.required("ALGORITHM")?.content()?)?,
            size: value.attribute("size").unwrap_or_default().into_owned(),
            bytes: read_base64(value)?,
        })
    }

    fn write(&self, xml: &mut Xml) {
        use base64::Engine;
        xml.open("DIGEST", &[]);
        xml.leaf("ALGORITHM", &[], hash_name(self.hash));
        xml.open("PARAMETER", &[("name", "codingtype")]);
        xml.leaf("VALUE", &[("encoding", "string")], "surface-coding");
        xml.close("PARAMETER");
        let text = base64::engine::general_purpose::STANDARD.encode(&self.bytes);
        xml.leaf("VALUE", &[("encoding", "base64"), ("size", &self.size)], &text);
        xml.close("DIGEST");
    }
}

/// What stands in PRINCIPAL and in ISSUER: who, which key, which levels, which sealed key. Rights data may name thousands,
/// who have nothing but an object; so the rest takes room only where it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// Attribute `internal-id`: by it other elements refer to this principal.
    pub internal_id: Option<String>,
    /// OBJECT.
    pub object: Option<Object>,
    /// PUBLICKEY.
    pub key: Option<Box<RsaPublicKey>>,
    /// DIGEST of the hardware id, in a machine certificate only.
    pub hardware: Option<Box<HardwareId>>,
    /// SECURITYLEVELs in their order.
    pub levels: Vec<SecurityLevel>,
    /// ENABLINGBITS.
    pub enabling: Option<Box<EnablingBits>>,
}

impl Principal {
    /// A principal with an object and a key.
    #[must_use]
    pub fn new(object: Object, key: RsaPublicKey) -> Self {
        Principal { object: Some(object), key: Some(Box::new(key)), ..Principal::default() }
    }

    /// What ISSUER holds in documents that this principal signs: object, key and levels.
    #[must_use]
    pub fn as_issuer(&self) -> Principal {
        let (object, key, levels) = (self.object.clone(), self.key.clone(), self.levels.clone());
        Principal { object, key, levels, ..Principal::default() }
    }

    /// The value of a security level.
    #[must_use]
    pub fn level(&self, name: &str) -> Option<&str> {
        self.levels.iter().find(|level| level.name == name).map(|level| level.value.as_str())
    }

    /// The OBJECT.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if there is none; `whose` names the principal in the message.
    pub fn required_object(&self, whose: &str) -> Result<&Object> {
        self.object.as_ref().ok_or_else(|| incomplete(format!("{whose} has no OBJECT")))
    }

    /// The public key.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if there is none.
    pub fn required_key(&self, whose: &str) -> Result<&RsaPublicKey> {
        self.key.as_deref().ok_or_else(|| incomplete(format!("{whose} has no PUBLICKEY")))
    }

    /// Reads ISSUER or PRINCIPAL.
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let levels = read_each(element.all("SECURITYLEVEL"), |level| {
            let name = level.required_attribute("name")?.into_owned();
            Ok(SecurityLevel { name, value: level.required_attribute("value")?.into_owned() })
        });
        Ok(Principal {
            internal_id: element.attribute("internal-id").map(Into::into),
            object: element.optional("OBJECT")?.map(Object::read).transpose()?,
            key: element.optional("PUBLICKEY")?.map(read_key).transpose()?.map(Box::new),
            hardware: element.optional("DIGEST")?.map(HardwareId::read).transpose()?.map(Box::new),
            levels: levels?,
            enabling: element.optional("ENABLINGBITS")?.map(EnablingBits::read).transpose()?.map(Box::new),
        })
    }

    /// Writes the principal under a name. A machine's sealed key stands before its levels, any other after them.
    pub(super) fn write(&self, name: &str, xml: &mut Xml) {
        let id = self.internal_id.as_deref().map(|id| ("internal-id", id));
        let is_machine = self.object.as_ref().is_some_and(|object| object.kind() == "Machine-Unique-Identifier");
        if *self == (Principal { internal_id: self.internal_id.clone(), ..Principal::default() }) {
            return xml.leaf(name, id.as_slice(), "");
        }
        xml.open(name, id.as_slice());
        if let Some(object) = &self.object {
            object.write(xml);
        }
        if let Some(key) = &self.key {
            write_key(key, xml);
        }
        if let Some(hardware) = &self.hardware {
            hardware.write(xml);
        }
        if let Some(bits) = self.enabling.as_ref().filter(|_| is_machine) {
            bits.write(xml);
        }
        for level in &self.levels {
            xml.leaf("SECURITYLEVEL", &[("name", &level.name), ("value", &level.value)], "");
        }
        if let Some(bits) = self.enabling.as_ref().filter(|_| !is_machine) {
            bits.write(xml);
        }
        xml.close(name);
    }
}

/// DISTRIBUTIONPOINT: where something is fetched or asked for; with a key only if its type is `Revocation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionPoint {
    /// OBJECT.
    pub object: Object,
    /// PUBLICKEY: the key that signs the list.
    pub key: Option<Box<RsaPublicKey>>,
}

impl DistributionPoint {
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        Ok(DistributionPoint {
            object: Object::read(element.required("OBJECT")?)?,
            key: element.optional("PUBLICKEY")?.map(read_key).transpose()?.map(Box::new),
        })
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        xml.open("DISTRIBUTIONPOINT", &[]);
        self.object.write(xml);
        if let Some(key) = &self.key {
            write_key(key, xml);
        }
        xml.close("DISTRIBUTIONPOINT");
    }
}
