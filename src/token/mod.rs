//! Port to a token: a PKCS#11 token or a TPM, with its private keys.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Answer, Error, Reason};
use crate::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use crate::secret::{Pin, Secret};

mod back_off;
pub mod bare;
mod environment;
mod health;
pub mod host;
pub mod lane;
pub mod pkcs11;
pub mod probe;
pub mod profile;
pub mod replica;
pub mod tpm;

pub use environment::set_environment;
pub use profile::{prepare_directory, require_directory};

/// Between the function and its code in a failure's words.
const ANSWERED: &str = " answered ";

/// Opens the token that a binding names, in this process, and logs in, once and never again. The PIN is asked for when
/// the token has been found and nothing speaks against a try.
///
/// # Errors
/// See [`pkcs11::open`]; those of the PIN's source.
pub fn open(
    binding: &Binding,
    profile: &profile::Profile,
    pin: impl FnOnce() -> Result<Pin, Error>,
) -> Result<Box<dyn Token>, Error> {
    match profile.kind {
        profile::Kind::Pkcs11 => Ok(Box::new(pkcs11::open(binding, profile, pin)?)),
        profile::Kind::Tpm => Ok(Box::new(tpm::open(binding, profile, pin)?)),
    }
}

/// Makes a token, with its PINs, and says what it is: in a free slot of a PKCS#11 device, or a TPM's directory of
/// wrapped keys, which has no security officer. The environment of the profile must be set (see
/// [`set_environment`]), and no other process may make a token in the same directory meanwhile.
///
/// # Errors
/// `ALREADY_EXISTS` if a token has this label, `TOKEN_UNSUPPORTED` if the device's maker has a tool for this,
/// `TOKEN_MISSING` if no slot is free, `MODULE_MISSING`, or the device's answer.
pub fn initialise(
    profile: &profile::Profile,
    dir: &Path,
    label: &str,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<Description, Error> {
    if profile.create.by != profile::CreateBy::FreeSlot {
        let how = profile.create.how.as_deref().unwrap_or("Use the tool of its maker.");
        return Err(
            Error::new(Reason::TokenUnsupported, format!("tokens of {} are not made here", profile.title)).hint(how)
        );
    }
    match profile.kind {
        profile::Kind::Pkcs11 => pkcs11::initialise(profile, dir, label, so_pin, user_pin),
        profile::Kind::Tpm => tpm::initialise(profile, dir, label, user_pin),
    }
}

/// A device that could not be opened, as the failure of an act: in its own words, if it said something, with what a TPM's
/// say beside the value.
fn unopened(class: Class, function: &'static str, error: &Error) -> Failure {
    let detail = error.private_detail();
    match error.answer() {
        Some(answer) => {
            let code = detail.and_then(|failure| failure.split_once(ANSWERED)).map(|(_, code)| code);
            let code = code.filter(|code| code.starts_with(&answer.value)).unwrap_or(&answer.value);
            refusal(class, answer.function, code)
        }
        None => {
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            refusal(class, function, format!("{}{detail}", error.message()))
        }
    }
}

/// What is said of an act that no device got, because its caller had no time left.
const TOO_LATE: &str = "the caller's time was over before it could be asked";

/// A failure that certainly left nothing done.
fn refusal(class: Class, function: &'static str, code: impl Into<String>) -> Failure {
    Failure { class, outcome: Outcome::Refused, function, code: code.into() }
}

/// Which token is meant: what the configuration of one site says of it. Never a slot number, never a PIN.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The name that this site gives it.
    pub name: String,
    /// The name or path of its device profile.
    pub profile: String,
    /// Where a software token keeps its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Token label. Label and serial must both be right.
    pub label: String,
    /// Token serial number.
    pub serial: String,
    /// Working sessions to open at most.
    pub sessions: usize,
}

/// One open token. Blocking: called from the threads of a [`lane::Lane`], never from an async task.
///
/// Contract. Safe to call from many threads at once; an implementation serialises what its device cannot do in
/// parallel. `Ok` means the device did it. [`Outcome::Refused`] means the device certainly did not do it;
/// [`Outcome::Unknown`] means it may have. An implementation retries only acts that change nothing in the token
/// (`sign`, `decrypt`, `public_key`), once, after it has found the key again and compared its public half.
/// Nobody above retries, but for another replica that is asked. No PIN is ever tried twice.
pub trait Token: Send + Sync {
    /// This token as one caller uses it; `None` if it is used as it is, because nobody has to wait for it.
    fn allowing<'a>(&'a self, _: Allowance<'a>) -> Option<Box<dyn Token + 'a>> {
        None
    }

    /// What the device says of itself.
    ///
    /// # Errors
    /// The device's answer.
    fn describe(&self) -> Result<Description, Failure>;

    /// Makes a key pair inside the token and reads its attributes back.
    ///
    /// # Errors
    /// The device's answer, or [`Class::Mismatch`] if an attribute that custody rests on reads back otherwise.
    fn generate(&self, request: &Generate) -> Result<Generated, Failure>;

    /// Finds the key by its id and gives its public half.
    ///
    /// # Errors
    /// [`Class::KeyMissing`] if no key has this id, [`Class::Mismatch`] if more than one has.
    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure>;

    /// Signs a digest. RSA: RSASSA-PKCS1-v1_5, big-endian, as long as the modulus. P-256: r‖s, 64 bytes.
    ///
    /// # Errors
    /// The device's answer; [`Class::Mismatch`] if the token's key is not `key.public`.
    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure>;

    /// Decrypts an RSA ciphertext as long as the modulus.
    ///
    /// # Errors
    /// [`Class::Caller`] or [`Class::Undecided`] if the ciphertext does not decrypt, whatever the device calls that.
    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure>;
}

/// What one caller allows an act on a token.
#[derive(Clone, Copy)]
pub struct Allowance<'a> {
    /// The device is not given the act after this. If it has the act by then, it has the time of its profile for it:
    /// that a caller has given up does not end the device.
    pub until: Instant,
    /// Whether an act that changes nothing is made once more if what holds the device went down under it.
    pub again: bool,
    /// Told when the device gets the act, and when it has it no more and is to get it once more.
    pub given: &'a (dyn Fn(bool) + Sync),
}

/// A key as custody recorded it.
#[derive(Clone, Debug)]
pub struct KeyRef {
    /// CKA_ID.
    pub id: KeyId,
    /// The public half that the token's key must have.
    pub public: PublicKey,
}

/// RSA encryption padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// RSAES-PKCS1-v1_5.
    Pkcs1,
    /// RSAES-OAEP with this hash, MGF1 with the same hash, empty label.
    Oaep(Hash),
}

/// A key pair to make.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The identity it gets.
    pub id: KeyId,
    /// For people who look into the token with other tools.
    pub label: String,
    /// What kind.
    pub algorithm: KeyAlgorithm,
    /// Whether it may sign.
    pub sign: bool,
    /// Whether it may decrypt.
    pub decrypt: bool,
}

/// What came of a generation.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The public half, read from the token.
    pub public: PublicKey,
    /// The private half's attributes, read from the token.
    pub evidence: Evidence,
}

/// What the token says of a private key: the proof of custody that is stored with the key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// The device it was made in.
    pub token: Description,
    /// Attribute name (as in PKCS#11) and value as read back, in the order of the template.
    pub attributes: Vec<(String, String)>,
    /// Attributes that the device does not take or does not show, each with the device's answer: gaps in the proof.
    pub gaps: Vec<(String, String)>,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// Token label.
    pub label: String,
    /// Token serial number.
    pub serial: String,
    /// Maker.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Firmware version.
    pub firmware: String,
    /// SHA-256 of the module file, hexadecimal.
    pub module_sha256: String,
}

/// What kind of failure it was; decides who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The working session is gone; the key must be found again.
    Session,
    /// The token is gone or its login is lost.
    Token,
    /// The module itself failed or hung.
    Module,
    /// The PIN was refused or is locked; nobody tries again.
    Pin,
    /// The input does not fit: the caller's doing.
    Caller,
    /// A ciphertext did not decrypt, in words that may mean the device too: the caller's doing, until a probe shows
    /// otherwise.
    Undecided,
    /// No key has this id.
    KeyMissing,
    /// The key, or what it made, is not the recorded one.
    Mismatch,
    /// The device cannot do this.
    Unsupported,
}

/// Whether the device did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It certainly did not.
    Refused,
    /// It may have.
    Unknown,
}

/// A device's failure, with the return value and the function that gave it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// Who acts.
    pub class: Class,
    /// Whether it happened.
    pub outcome: Outcome,
    /// The device function, such as `C_Sign`.
    pub function: &'static str,
    /// The return value's name, such as `CKR_DEVICE_ERROR`, or words where the device said nothing.
    pub code: String,
}

impl Failure {
    /// What the device itself answered; `None` where it said nothing, and the code is words of ours.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        let said = ["CKR_", "TPM_RC", "0x"].iter().any(|begin| self.code.starts_with(begin));
        // A TPM's code is followed by words for people.
        let value = self.code.split(':').next().unwrap_or_default();
        said.then(|| Answer { function: self.function, value: value.to_owned() })
    }

    /// Whether the caller's time was over before the device could be asked: that says nothing of the device.
    pub(crate) fn is_too_late(&self) -> bool {
        self.code == TOO_LATE
    }

    /// This failure as the last of several tries: what an earlier one may have done stays open.
    #[must_use]
    pub fn after(self, earlier: Outcome) -> Self {
        if earlier == Outcome::Unknown { Failure { outcome: earlier, ..self } } else { self }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{ANSWERED}{}", self.function, self.code)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (reason, message) = match (failure.class, failure.outcome) {
            // The host said so: no device has refused a PIN, or it is not known that one has.
            (Class::Pin, _) if failure.answer().is_none() => {
                let error = Error::new(Reason::TokenWaiting, "the token waits until a person logs it in");
                return error.hint("see why: keyward token status").detail(failure);
            }
            (Class::Pin, _) => (Reason::PinRefused, "the token refused the PIN"),
            (Class::Caller | Class::Undecided, _) => (Reason::TokenRefused, "the token refused the input"),
            (Class::KeyMissing, _) => (Reason::KeyMissing, "the token does not show the key"),
            (Class::Mismatch, _) => (Reason::TokenMismatch, "the token's key is not the recorded one"),
            (Class::Unsupported, _) => (Reason::TokenUnsupported, "the token cannot do this"),
            (_, Outcome::Unknown) => (Reason::TokenUnknown, "it is not known whether the token did it"),
            _ => (Reason::TokenUnavailable, "the token cannot be used now"),
        };
        Error::new(reason, message).answered(failure.answer()).detail(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_said_at_its_opening_is_kept_with_the_advice() {
        let tpm = refusal(Class::Token, "TPM2_CreatePrimary", "TPM_RC Initialize: not started; restart the machine");
        let pkcs11 = refusal(Class::Token, "C_OpenSession", "CKR_DEVICE_MEMORY");
        for said in [tpm, pkcs11] {
            let error = Error::from(said.clone()).while_doing("token main");
            assert_eq!(unopened(Class::Token, "TPM", &error), said);
        }
    }

    #[test]
    fn a_pin_is_said_to_be_refused_only_if_the_device_refused_it() {
        let reason = |code: &str| Error::from(refusal(Class::Pin, "C_Login", code)).reason();
        assert_eq!(reason("CKR_PIN_INCORRECT"), Reason::PinRefused);
        assert_eq!(reason("0x80000001"), Reason::PinRefused);
        assert_eq!(reason("the token host of main ended within a login"), Reason::TokenWaiting);
    }
}
