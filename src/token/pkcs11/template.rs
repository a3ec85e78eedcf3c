//! Attributes of a custody key pair: what is asked for at generation, and what the token says afterwards.

use cryptoki::error::Error as Cryptoki;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use super::fault::{self, Act, failure};
use crate::key::KeyAlgorithm;
use crate::token::profile::{Keys, Optional};
use crate::token::{Class, Description, Evidence, Failure, Generate, Outcome};

/// DER of the object identifier of P-256 (RFC 5480, 2.1.1.1): CKA_EC_PARAMS.
const P256_PARAMS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// 65537, the only public exponent of custody keys.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];

/// A request in the words of C_GenerateKeyPair.
pub(super) struct Template {
    pub(super) mechanism: Mechanism<'static>,
    pub(super) public: Vec<Attribute>,
    pub(super) private: Vec<Attribute>,
    /// What the profile says the device does not take.
    dropped: Vec<AttributeType>,
}

impl Template {
    /// The template of a custody key. A key that could be read, copied, changed, derived from or wrapped by an
    /// untrusted key is no custody key; one that could unwrap would turn its decryption into key extraction.
    pub(super) fn of(request: &Generate, keys: &Keys) -> Template {
        let identity = [Attribute::Id(request.id.0.to_vec()), Attribute::Label(request.label.clone().into_bytes())];
        let (mechanism, parameters, mut allowed) = match request.algorithm {
            KeyAlgorithm::Rsa(bits) => (
                Mechanism::RsaPkcsKeyPairGen,
                vec![
                    Attribute::ModulusBits(u64::from(bits).into()),
                    Attribute::PublicExponent(PUBLIC_EXPONENT.to_vec()),
                ],
                vec![MechanismType::RSA_PKCS],
            ),
            KeyAlgorithm::P256 => {
                (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P256_PARAMS.to_vec())], vec![MechanismType::ECDSA])
            }
        };
        if request.decrypt && !keys.oaep.is_empty() {
            allowed.push(MechanismType::RSA_PKCS_OAEP);
        }
        // Whether the public half is private is left to the device: some make every object so, and take no other word.
        let mut public = vec![
            Attribute::Token(true),
            Attribute::Verify(request.sign),
            Attribute::Encrypt(request.decrypt),
            Attribute::Wrap(false),
        ];
        public.extend(parameters);
        public.extend(identity.clone());
        let mut private = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
            Attribute::Derive(false),
            Attribute::Sign(request.sign),
            Attribute::Decrypt(request.decrypt),
            Attribute::SignRecover(false),
            Attribute::Unwrap(false),
            Attribute::WrapWithTrusted(true),
            Attribute::AlwaysAuthenticate(false),
            Attribute::AllowedMechanisms(allowed),
        ];
        let dropped: Vec<_> = keys.omit.iter().map(|omitted| attribute_type(*omitted)).collect();
        private.retain(|a| !dropped.contains(&a.attribute_type()));
        private.extend(identity);
        Template { mechanism, public, private, dropped }
    }

    /// Reads everything back from the pair that was made.
    ///
    /// An attribute that custody rests on and that reads otherwise than asked is a mismatch. Any other difference,
    /// and everything that the token does not take or show, is a gap.
    pub(super) fn read_back(
        &self,
        session: &Session,
        private: ObjectHandle,
        public: ObjectHandle,
        token: Description,
    ) -> Result<Evidence, Failure> {
        let mut evidence = Evidence { token, attributes: Vec::new(), gaps: Vec::new() };
        for name in READ_BACK {
            let handle = if PUBLIC_HAS_IT.contains(name) { public } else { private };
            let label = attribute_name(*name);
            if self.dropped.contains(name) {
                evidence.gaps.push((label.clone(), "not asked for: the profile says the device refuses it".to_owned()));
            }
            match read(session, handle, *name)? {
                Err(answer) => {
                    if !(self.dropped.contains(name) || self.is_of_the_other_kind(*name)) {
                        evidence.gaps.push((label, answer));
                    }
                }
                Ok(value) => {
                    let shown = show(&value);
                    if let Some(wanted) = self.wanted(*name).filter(|wanted| show(wanted) != shown) {
                        if CUSTODY_RESTS_ON.contains(name) {
                            return Err(Failure {
                                class: Class::Mismatch,
                                outcome: Outcome::Unknown,
                                function: "C_GetAttributeValue",
                                code: format!("{label} = {shown} where {} was asked for", show(&wanted)),
                            });
                        }
                        evidence.gaps.push((label.clone(), format!("asked for {}, reads {shown}", show(&wanted))));
                    }
                    evidence.attributes.push((label, shown));
                }
            }
        }
        Ok(evidence)
    }

    /// The value that an attribute must have: asked for, or set by a token that made the key itself.
    fn wanted(&self, name: AttributeType) -> Option<Attribute> {
        match name {
            AttributeType::Local => Some(Attribute::Local(true)),
            AttributeType::AlwaysSensitive => Some(Attribute::AlwaysSensitive(true)),
            AttributeType::NeverExtractable => Some(Attribute::NeverExtractable(true)),
            AttributeType::KeyGenMechanism => Some(Attribute::KeyGenMechanism(self.mechanism.mechanism_type())),
            name if PUBLIC_HAS_IT.contains(&name) || name == AttributeType::PublicExponent => {
                self.public.iter().find(|a| a.attribute_type() == name).cloned()
            }
            _ => self.private.iter().find(|a| a.attribute_type() == name).cloned(),
        }
    }

    /// RSA's numbers on a P-256 key, and the other way around: nothing is missing there.
    fn is_of_the_other_kind(&self, name: AttributeType) -> bool {
        let of_one_kind = [AttributeType::ModulusBits, AttributeType::PublicExponent, AttributeType::EcParams];
        of_one_kind.contains(&name) && self.wanted(name).is_none()
    }
}

/// What is read back from the public half.
const PUBLIC_HAS_IT: &[AttributeType] = &[
    AttributeType::Verify,
    AttributeType::Encrypt,
    AttributeType::Wrap,
    AttributeType::ModulusBits,
    AttributeType::EcParams,
];

/// What is read back, in the order of the template.
const READ_BACK: &[AttributeType] = &[
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Modifiable,
    AttributeType::Copyable,
    AttributeType::Derive,
    AttributeType::Sign,
    AttributeType::Decrypt,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::WrapWithTrusted,
    AttributeType::AlwaysAuthenticate,
    AttributeType::AllowedMechanisms,
    AttributeType::Local,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
    AttributeType::KeyGenMechanism,
    AttributeType::Verify,
    AttributeType::Encrypt,
    AttributeType::Wrap,
    AttributeType::ModulusBits,
    AttributeType::PublicExponent,
    AttributeType::EcParams,
];

/// A key for which one of these reads wrong is not taken.
const CUSTODY_RESTS_ON: &[AttributeType] = &[
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Sign,
    AttributeType::Decrypt,
    AttributeType::Unwrap,
    AttributeType::Local,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
    AttributeType::ModulusBits,
    AttributeType::PublicExponent,
];

const fn attribute_type(omitted: Optional) -> AttributeType {
    match omitted {
        Optional::Modifiable => AttributeType::Modifiable,
        Optional::Copyable => AttributeType::Copyable,
        Optional::Derive => AttributeType::Derive,
        Optional::SignRecover => AttributeType::SignRecover,
        Optional::WrapWithTrusted => AttributeType::WrapWithTrusted,
        Optional::AlwaysAuthenticate => AttributeType::AlwaysAuthenticate,
        Optional::AllowedMechanisms => AttributeType::AllowedMechanisms,
    }
}

/// One attribute, or the device's reason for not showing it. What is not about the attribute is a failure: a token that
/// went away in between does not thereby lack an attribute.
pub(super) fn read(
    session: &Session,
    object: ObjectHandle,
    name: AttributeType,
) -> Result<Result<Attribute, String>, Failure> {
    let not_shown = |e: Cryptoki| {
        let failure = failure(Act::Look, &e);
        if fault::is_about_an_attribute(&failure.code) { Ok(Err(failure.code)) } else { Err(failure) }
    };
    let info = match session.get_attribute_info(object, &[name]) {
        Ok(info) => info,
        Err(e) => return not_shown(e),
    };
    let answer = match info.first() {
        Some(AttributeInfo::Available(_)) => match session.get_attributes(object, &[name]) {
            Ok(values) => match values.into_iter().next() {
                Some(value) => return Ok(Ok(value)),
                None => "nothing",
            },
            Err(e) => return not_shown(e),
        },
        Some(AttributeInfo::Sensitive) => "CKR_ATTRIBUTE_SENSITIVE",
        Some(AttributeInfo::TypeInvalid) => "CKR_ATTRIBUTE_TYPE_INVALID",
        _ => "CK_UNAVAILABLE_INFORMATION",
    };
    Ok(Err(answer.to_owned()))
}

/// The PKCS#11 name of an attribute.
fn attribute_name(name: AttributeType) -> String {
    let mut text = "CKA".to_owned();
    for c in format!("{name:?}").chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// An attribute's value for the record.
fn show(value: &Attribute) -> String {
    match value {
        Attribute::AllowedMechanisms(list) => {
            let mut names: Vec<_> = list.iter().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        }
        Attribute::KeyGenMechanism(mechanism) => mechanism.to_string(),
        Attribute::ModulusBits(bits) => bits.to_string(),
        Attribute::PublicExponent(bytes) | Attribute::EcParams(bytes) => hex::encode(bytes),
        other => {
            let text = format!("{other:?}");
            text.split_once('(').map_or(text.clone(), |(_, value)| value.trim_end_matches(')').to_owned())
        }
    }
}
