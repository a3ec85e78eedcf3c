//! A PKCS#11 token behind the port.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use self::fault::{Act, failure};
use self::module::Module;
use self::session::Sessions;
use self::template::Template;
use super::profile::Profile;
use super::{Binding, Class, Description, Failure, Generate, Generated, KeyRef, Outcome, Padding, Token};
use crate::error::Result;
use crate::key::{Hash, KeyId, PublicKey, RsaPublicKey};
use crate::secret::{Pin, Secret};

mod bare;
pub mod fault;
mod initialise;
mod module;
mod raw;
mod session;
mod template;

pub(super) use initialise::initialise;

/// Bytes of the longest signature or plaintext: RSA-4096.
const OUTPUT_BYTES_MAX: usize = 512;

/// An open, logged-in PKCS#11 token.
pub struct Pkcs11Token {
    profile: Profile,
    description: Description,
    sessions: Sessions,
    /// One generation at a time: some modules race here.
    making: Mutex<()>,
}

/// Opens the one token that a binding names and logs in, once: a token whose login is lost must be opened anew. The
/// environment of the profile must be set. The PIN is asked for just before it is tried.
///
/// # Errors
/// `MODULE_MISSING`, `TOKEN_MISSING`, `TOKEN_AMBIGUOUS`, each with what was seen; `PIN_LATCHED` without a try if the
/// token says that its PIN is locked, at its final try or to be changed; `PIN_REFUSED` after the one try, which the
/// caller must latch; the device's answer otherwise.
pub fn open(binding: &Binding, profile: &Profile, pin: impl FnOnce() -> Result<Pin>) -> Result<Pkcs11Token> {
    let named = |e: crate::error::Error| e.while_doing(format!("token {}", binding.name));
    let module = Module::load(profile).map_err(named)?;
    let sessions = Sessions::connect(Arc::clone(&module), binding, profile, pin).map_err(named)?;
    let info = module.context.get_token_info(sessions.slot).map_err(|e| named(failure(Act::Look, &e).into()))?;
    let description = module.description(&info);
    Ok(Pkcs11Token { profile: profile.clone(), description, sessions, making: Mutex::new(()) })
}

impl Token for Pkcs11Token {
    fn describe(&self) -> Result<Description, Failure> {
        let module = &self.sessions.module;
        let info = module.context.get_token_info(self.sessions.slot).map_err(|e| failure(Act::Look, &e))?;
        Ok(module.description(&info))
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Failure> {
        if !self.profile.makes(request.algorithm) {
            return Err(unsupported(format!("the profile lists no {:?} keys", request.algorithm)));
        }
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.with_session(|session| find(session, &[Attribute::Id(request.id.0.to_vec())]))?;
        if !taken.is_empty() {
            return Err(Failure {
                class: Class::Caller,
                outcome: Outcome::Refused,
                function: "C_FindObjects",
                code: "an object of this id exists".to_owned(),
            });
        }
        let template = Template::of(request, &self.profile.keys);
        let session = self.sessions.read_write()?;
        let (public, private) = session
            .generate_key_pair(&template.mechanism, &template.public, &template.private)
            .map_err(|e| failure(Act::Make, &e))?;
        // From here on the pair exists, so a failure leaves the outcome open.
        let made = |f: Failure| Failure { outcome: Outcome::Unknown, ..f };
        let evidence = template.read_back(&session, private, public, self.description.clone()).map_err(made)?;
        let public = same_key(&session, request.id, private, public).map_err(made)?;
        Ok(Generated { public, evidence })
    }

    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure> {
        self.with_session(|session| public_half(session, id, private_object(session, id)?))
    }

    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        if digest.len() != hash.bytes() {
            return Err(unsupported(format!("a digest of {} bytes for {hash:?}", digest.len())));
        }
        let (mechanism, data, length) = match &key.public {
            PublicKey::Rsa(rsa) => (Mechanism::RsaPkcs, [hash.digest_info(), digest].concat(), rsa.modulus_be().len()),
            PublicKey::P256 { .. } => (Mechanism::Ecdsa, digest.to_vec(), 64),
        };
        self.with_key(key, |session, handle| {
            session.sign_init(&mechanism, handle).map_err(|e| failure(Act::Prepare, &e))?;
            let mut signature = vec![0u8; length];
            let one_shot = &self.sessions.module.one_shot;
            let written = one_shot.sign_into(session, &data, &mut signature).map_err(|e| failure(Act::Sign, &e))?;
            if written == length {
                return Ok(signature);
            }
            // It did sign.
            let code = format!("a signature of {written} bytes instead of {length}");
            Err(Failure { class: Class::Mismatch, outcome: Outcome::Unknown, function: "C_Sign", code })
        })
    }

    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure> {
        let mechanism = match padding {
            Padding::Pkcs1 if self.profile.keys.pkcs1_decrypt => Mechanism::RsaPkcs,
            Padding::Oaep(hash) if self.profile.keys.oaep.contains(&hash) => Mechanism::RsaPkcsOaep(oaep(hash)),
            other => return Err(unsupported(format!("the profile lists no decryption with {other:?}"))),
        };
        self.with_key(key, |session, handle| {
            session.decrypt_init(&mechanism, handle).map_err(|e| failure(Act::Prepare, &e))?;
            let mut plaintext = zeroize::Zeroizing::new(vec![0u8; OUTPUT_BYTES_MAX]);
            let one_shot = &self.sessions.module.one_shot;
            let written =
                one_shot.decrypt_into(session, ciphertext, &mut plaintext).map_err(|e| failure(Act::Decrypt, &e))?;
            Ok(Secret::new(plaintext[..written].to_vec()))
        })
    }
}

impl Pkcs11Token {
    /// Runs an act that changes nothing in a borrowed session; after a loss once more in a new one.
    fn with_session<T>(&self, act: impl Fn(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
        self.twice(|| self.sessions.lend().map(|lent| (lent, ())), |session, (), _| act(session))
    }

    /// The same with the key's handle, found and compared where it is not known.
    fn with_key<T>(
        &self,
        key: &KeyRef,
        act: impl Fn(&Session, ObjectHandle) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.twice(
            || self.sessions.lend_for(key),
            |session, known, generation| {
                let handle = match known {
                    Some(handle) => handle,
                    None => {
                        let handle = private_object(session, key.id)?;
                        if public_half(session, key.id, handle)? != key.public {
                            return Err(mismatch("the key found by this id has another public half"));
                        }
                        self.sessions.remember(key, handle, generation);
                        handle
                    }
                };
                act(session, handle)
            },
        )
    }

    fn twice<'a, K, T>(
        &'a self,
        lend: impl Fn() -> Result<(session::Lent<'a>, K), Failure>,
        act: impl Fn(&Session, K, u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (mut again, mut earlier) = (true, Outcome::Refused);
        loop {
            let (lent, known) = lend().map_err(|f| f.after(earlier))?;
            let generation = lent.generation;
            let failure = match act(lent.session(), known, generation).map_err(|f| f.after(earlier)) {
                Ok(done) => return Ok(done),
                // The session did what it could; the input did not fit.
                Err(f)
                    if matches!(f.class, Class::Caller | Class::Undecided | Class::KeyMissing | Class::Unsupported) =>
                {
                    return Err(f);
                }
                Err(f) => f,
            };
            lent.spoil();
            if !again || !matches!(failure.class, Class::Session | Class::Token) {
                return Err(failure);
            }
            (again, earlier) = (false, failure.outcome);
            self.sessions.recover(generation).map_err(|f| f.after(earlier))?;
        }
    }
}

/// All objects that match, at once.
fn find(session: &Session, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Failure> {
    session.find_objects(template).map_err(|e| failure(Act::Look, &e))
}

/// The one private key of this id.
fn private_object(session: &Session, id: KeyId) -> Result<ObjectHandle, Failure> {
    let found = find(session, &[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.0.to_vec())])?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] if !session::is_logged_in(session) => Err(hidden()),
        [] => Err(Failure {
            class: Class::KeyMissing,
            outcome: Outcome::Refused,
            function: "C_FindObjects",
            code: "no private key of this id".to_owned(),
        }),
        many => Err(mismatch(&format!("{} private keys of one id", many.len()))),
    }
}

/// The public half: for RSA from the private object itself, where that shows it, otherwise from the public object of the
/// same id.
fn public_half(session: &Session, id: KeyId, private: ObjectHandle) -> Result<PublicKey, Failure> {
    match rsa_of(session, private)? {
        Ok(rsa) => Ok(rsa),
        Err(_) => public_of(session, public_object(session, id)?),
    }
}

/// What a public object holds. A module that does not show it has not thereby shown another key.
fn public_of(session: &Session, public: ObjectHandle) -> Result<PublicKey, Failure> {
    let not_shown = match rsa_of(session, public)? {
        Ok(rsa) => return Ok(rsa),
        Err(answer) => answer,
    };
    match template::read(session, public, AttributeType::EcPoint)? {
        // A DER octet string by the standard (PKCS#11 2.40, 2.3.3); some modules give the bare point.
        Ok(Attribute::EcPoint(der)) if der.len() == 67 && der[..3] == [0x04, 0x41, 0x04] => {
            Ok(PublicKey::P256 { point: der[2..].to_vec() })
        }
        Ok(Attribute::EcPoint(point)) if point.len() == 65 && point[0] == 0x04 => Ok(PublicKey::P256 { point }),
        Ok(_) => Err(mismatch("a key that is neither RSA nor P-256")),
        Err(_) => Err(super::refusal(Class::Token, "C_GetAttributeValue", not_shown)),
    }
}

/// Modulus and exponent of an object, or the module's word for not showing one of them: a private object need not have
/// the exponent, and modules differ in what they say of an attribute that is not there.
fn rsa_of(session: &Session, object: ObjectHandle) -> Result<Result<PublicKey, String>, Failure> {
    let (modulus, exponent) = match template::read(session, object, AttributeType::Modulus)? {
        Ok(Attribute::Modulus(modulus)) => (modulus, template::read(session, object, AttributeType::PublicExponent)?),
        Ok(_) => return Err(mismatch("a modulus of another form")),
        Err(answer) => return Ok(Err(answer)),
    };
    let exponent = match exponent {
        Ok(Attribute::PublicExponent(exponent)) => exponent,
        Ok(_) => return Err(mismatch("an exponent of another form")),
        Err(answer) => return Ok(Err(answer)),
    };
    let exponent = exponent.iter().try_fold(0u32, |n, byte| n.checked_mul(256)?.checked_add(u32::from(*byte)));
    let key = RsaPublicKey::new(&modulus, exponent.unwrap_or(0));
    key.map(PublicKey::Rsa).map(Ok).map_err(|e| mismatch(e.message()))
}

/// The one public key of this id.
fn public_object(session: &Session, id: KeyId) -> Result<ObjectHandle, Failure> {
    let found = find(session, &[Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id.0.to_vec())])?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] if !session::is_logged_in(session) => Err(hidden()),
        [] => Err(super::refusal(Class::KeyMissing, "C_FindObjects", "no public key of this id")),
        many => Err(mismatch(&format!("{} public keys of one id", many.len()))),
    }
}

/// The public half of a fresh pair, if both halves are found by its id, and are the halves of one key.
fn same_key(session: &Session, id: KeyId, private: ObjectHandle, public: ObjectHandle) -> Result<PublicKey, Failure> {
    for made in [private, public] {
        match template::read(session, made, AttributeType::Id)? {
            Ok(Attribute::Id(read)) if read != id.0 => {
                return Err(mismatch("CKA_ID of the new key is not the one that was asked for"));
            }
            // An id that is not shown is one by which the key is found below, or is not.
            _ => {}
        }
    }
    let half = public_of(session, public)?;
    if public_half(session, id, private_object(session, id)?)? == half {
        Ok(half)
    } else {
        Err(mismatch("the private half of the new key belongs to another public half"))
    }
}

/// Without a login a token may show no key at all: then the login is missing, and not the key.
fn hidden() -> Failure {
    super::refusal(Class::Session, "C_FindObjects", "no such key, for the login is lost")
}

fn oaep(hash: Hash) -> PkcsOaepParams<'static> {
    let (digest, mgf) = match hash {
        Hash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    PkcsOaepParams::new(digest, mgf, PkcsOaepSource::empty())
}

fn mismatch(what: &str) -> Failure {
    Failure {
        class: Class::Mismatch,
        outcome: Outcome::Refused,
        function: "C_GetAttributeValue",
        code: what.to_owned(),
    }
}

fn unsupported(what: String) -> Failure {
    Failure { class: Class::Unsupported, outcome: Outcome::Refused, function: "profile", code: what }
}
