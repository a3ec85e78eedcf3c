//! A TPM 2.0 behind the port: one lane, keys wrapped under its storage primary and loaded once.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::tss::{TPM2_LOADED_SESSION_FIRST, TPM2_RH_NULL, TPM2_ST_HASHCHECK, TPM2_TRANSIENT_FIRST};
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, CapabilityData, CreateKeyResult, Data, Digest, HashScheme, HashcheckTicket, PublicKeyRsa,
    RsaDecryptionScheme, Signature, SignatureScheme, SymmetricDefinition,
};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;
use tss_esapi::{Context, Error as Tss, TctiNameConf};

use self::fault::failure;
use self::loopback::Loopback;
use self::object::{KeyFile, TokenFile};
use super::profile::{Profile, prepare_directory};
use super::{Binding, Class, Description, Evidence, Failure, Generate, Generated, KeyRef, Outcome, Padding, Token};
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use crate::secret::{Pin, Secret};

mod attest;
mod bare;
mod fault;
mod loopback;
mod object;

/// The key that proves the PIN at opening: it signs nothing else.
const PIN_CHECK: KeyId = KeyId([0; 20]);
/// Keys that are loaded at a time. With the storage primary they are three objects: as many as every TPM holds (TPM 2.0
/// Part 2, TPM_PT_HR_TRANSIENT_MIN), and as many as the kernel's resource manager lets one user have, which ends a command
/// that would load a fourth one with an error of the device file.
const KEYS_MAX: usize = 2;
/// Characters of a PIN at least: the keys are outside dictionary-attack protection.
const PIN_CHARACTERS_MIN: usize = 24;

/// An open TPM token.
pub struct TpmToken {
    profile: Profile,
    directory: PathBuf,
    recorded: TokenFile,
    auth: Secret,
    connection: Mutex<Option<Connection>>,
    description: Description,
}

/// One connection to the TPM with what is loaded in it. Everything in it dies with it.
struct Connection {
    context: Context,
    primary: KeyHandle,
    primary_name: String,
    session: AuthSession,
    /// The last one was used last.
    loaded: Vec<Loaded>,
    /// The way to it, where it listens on Unix sockets; ends after the context.
    _loopback: Option<Loopback>,
}

/// A key in the TPM.
struct Loaded {
    id: KeyId,
    handle: KeyHandle,
    public: PublicKey,
}

/// Makes a token of a TPM: a directory for its wrapped keys, bound to the TPM's storage primary, and the PIN.
///
/// # Errors
/// `ALREADY_EXISTS` if the directory holds a token, `PIN_SOURCE` if the PIN is too short, or the TPM's answer.
pub(super) fn initialise(profile: &Profile, dir: &Path, label: &str, pin: &Pin) -> Result<Description> {
    let file = dir.join("token.json");
    if file.exists() {
        return Err(Error::new(Reason::AlreadyExists, format!("{} holds a token", dir.display()))
            .hint("Name another directory; the keys of a token are in its directory, so none is overwritten."));
    }
    let auth = auth_of(pin)?;
    prepare_directory(profile, dir)?;
    let mut connection = Connection::open(profile, dir)?;
    let template = object::key(KeyAlgorithm::P256, true, false).map_err(|e| failure("TPM2_Create", &e))?;
    let template = template.ok_or_else(|| Error::new(Reason::Internal, "a P-256 key has no template"))?;
    let made = connection.create(template, &auth)?;
    let check =
        KeyFile::of(&made.out_public, &made.out_private, "PIN check").map_err(|e| failure("TPM2_Create", &e))?;
    object::write(&object::key_path(dir, PIN_CHECK), &check)?;
    let recorded = TokenFile { label: label.to_owned(), primary: connection.primary_name.clone() };
    let description = connection.describe(&recorded)?;
    object::write(&file, &recorded)?;
    Ok(description)
}

/// Opens the TPM token that a binding names and proves the PIN, once.
///
/// # Errors
/// `TOKEN_MISSING` if the directory holds no such token, or if the TPM is not the one it was made with: cleared or
/// replaced; `PIN_REFUSED`; `TOKEN_UNAVAILABLE` if the TPM cannot be reached.
pub fn open(binding: &Binding, profile: &Profile, pin: impl FnOnce() -> Result<Pin>) -> Result<TpmToken> {
    let Some(directory) = binding.directory.clone() else {
        return Err(Error::new(Reason::ConfigInvalid, format!("token {}: a TPM token has a directory", binding.name)));
    };
    let missing = |what: String| Error::new(Reason::TokenMissing, format!("token {}: {what}", binding.name));
    let Some(recorded) = object::read::<TokenFile>(&directory.join("token.json"))? else {
        return Err(missing(format!("{} holds no token", directory.display()))
            .hint("Make the token, or restore its directory from the backup."));
    };
    if recorded.label != binding.label || serial(&recorded.primary) != binding.serial {
        return Err(missing(format!(
            "no token with label {:?} and serial {:?}; the directory holds {:?} with serial {:?}",
            binding.label,
            binding.serial,
            recorded.label,
            serial(&recorded.primary)
        )));
    }
    let mut connection = Connection::open(profile, &directory)?;
    if connection.primary_name != recorded.primary {
        return Err(missing(format!(
            "the TPM was cleared or replaced: its storage primary is {}, the token was made under {}",
            connection.primary_name, recorded.primary
        ))
        .hint("Keys of a cleared TPM are gone for ever. If the TPM was only moved, put the right one back."));
    }
    let description = connection.describe(&recorded)?;
    let auth = auth_of(&pin()?)?;
    let token = TpmToken {
        profile: profile.clone(),
        directory,
        recorded,
        auth,
        connection: Mutex::new(Some(connection)),
        description,
    };
    token.with_connection(|connection| {
        let (key, _) = connection.load(&token.directory, PIN_CHECK, &token.auth)?;
        connection.sign(
            key,
            SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) },
            &[0; 32],
        )
    })?;
    Ok(token)
}

impl Token for TpmToken {
    fn describe(&self) -> Result<Description, Failure> {
        self.with_connection(|connection| connection.describe(&self.recorded))
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Failure> {
        let unsupported = || super::refusal(Class::Unsupported, "profile", "the profile lists no such keys");
        if !self.profile.makes(request.algorithm) {
            return Err(unsupported());
        }
        let path = object::key_path(&self.directory, request.id);
        if path.exists() {
            return Err(super::refusal(Class::Caller, "TPM2_Create", "an object of this id exists"));
        }
        let template = object::key(request.algorithm, request.sign, request.decrypt)
            .map_err(|e| failure("TPM2_Create", &e))?
            .ok_or_else(unsupported)?;
        // A key that was made but not kept is lost without harm: nothing can load it. So this is done at most twice.
        let made = self.with_connection(|connection| connection.create(template.clone(), &self.auth))?;
        let public = object::public_key(&made.out_public)
            .ok_or_else(|| super::refusal(Class::Mismatch, "TPM2_Create", "a key of another kind"))?;
        let file = KeyFile::of(&made.out_public, &made.out_private, &request.label);
        let file = file.map_err(|e| failure("TPM2_Create", &e))?;
        object::write(&path, &file).map_err(|e| {
            // What stands in a file that was made may be whole.
            let outcome = if path.exists() { Outcome::Unknown } else { Outcome::Refused };
            Failure { class: Class::Token, outcome, function: "TPM2_Create", code: e.message().to_owned() }
        })?;
        let attributes = made.out_public.object_attributes();
        let shown = [
            ("fixedTPM", attributes.fixed_tpm(), true),
            ("fixedParent", attributes.fixed_parent(), true),
            ("sensitiveDataOrigin", attributes.sensitive_data_origin(), true),
            ("userWithAuth", attributes.user_with_auth(), true),
            ("noDA", attributes.no_da(), true),
            ("encryptedDuplication", attributes.encrypted_duplication(), false),
            ("restricted", attributes.restricted(), false),
            ("sign", attributes.sign_encrypt(), request.sign),
            ("decrypt", attributes.decrypt(), request.decrypt),
        ];
        if let Some((name, is, _)) = shown.iter().find(|(_, is, wanted)| is != wanted) {
            return Err(Failure {
                class: Class::Mismatch,
                outcome: Outcome::Unknown,
                function: "TPM2_Create",
                code: format!("{name} = {is}"),
            });
        }
        let mut evidence = Evidence { token: self.description.clone(), attributes: Vec::new(), gaps: Vec::new() };
        evidence.attributes.extend(shown.iter().map(|(name, is, _)| ((*name).to_owned(), is.to_string())));
        evidence.attributes.push(("parentName".to_owned(), self.recorded.primary.clone()));
        // From here on the key exists, so a failure leaves the outcome open.
        self.words_about(request.id, made, &mut evidence).map_err(|f| Failure { outcome: Outcome::Unknown, ..f })?;
        Ok(Generated { public, evidence })
    }

    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure> {
        self.with_connection(|connection| Ok(connection.load(&self.directory, id, &self.auth)?.1))
    }

    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        let scheme = match key.public {
            PublicKey::Rsa(_) => SignatureScheme::RsaSsa { hash_scheme: HashScheme::new(algorithm(hash)) },
            PublicKey::P256 { .. } => SignatureScheme::EcDsa { hash_scheme: HashScheme::new(algorithm(hash)) },
        };
        let length = match &key.public {
            PublicKey::Rsa(rsa) => rsa.modulus_be().len(),
            PublicKey::P256 { .. } => 64,
        };
        let signature = self.with_key(key, |connection, handle| connection.sign(handle, scheme, digest))?;
        if signature.len() == length { Ok(signature) } else { Err(strange()) }
    }

    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure> {
        let scheme = match padding {
            Padding::Pkcs1 if self.profile.keys.pkcs1_decrypt => RsaDecryptionScheme::RsaEs,
            Padding::Oaep(hash) if self.profile.keys.oaep.contains(&hash) => {
                RsaDecryptionScheme::Oaep(HashScheme::new(algorithm(hash)))
            }
            _ => return Err(super::refusal(Class::Unsupported, "profile", "the profile lists no such decryption")),
        };
        let too_long = |_| super::refusal(Class::Caller, "TPM2_RSA_Decrypt", "a ciphertext longer than any modulus");
        let ciphertext = PublicKeyRsa::try_from(ciphertext.to_vec()).map_err(too_long)?;
        self.with_key(key, |connection, handle| {
            let session = Some(connection.session);
            let plaintext = connection
                .context
                .execute_with_session(session, |c| c.rsa_decrypt(handle, ciphertext.clone(), scheme, Data::default()))
                .map_err(|e| failure("TPM2_RSA_Decrypt", &e))?;
            Ok(Secret::new(plaintext.value().to_vec()))
        })
    }
}

impl TpmToken {
    /// Adds what the TPM itself says of a key that it has just made, in its own byte forms.
    fn words_about(&self, id: KeyId, made: CreateKeyResult, evidence: &mut Evidence) -> Result<(), Failure> {
        let mut add = |name: &str, bytes: &[u8]| evidence.attributes.push((name.to_owned(), hex::encode(bytes)));
        add("publicArea", &made.out_public.marshall().map_err(|e| failure("TPM2_Create", &e))?);
        add("creationData", &attest::creation_bytes(made.creation_data)?);
        add("creationHash", made.creation_hash.value());
        let certified = self.with_connection(|connection| {
            // Room for the attestation key beside this one.
            connection.unload_all();
            let (key, _) = connection.load(&self.directory, id, &self.auth)?;
            connection.certify(key, &id.0)
        });
        let gap = match certified {
            Ok(certified) => {
                add("attestationKey", &certified.key);
                add("certifyInfo", &certified.info);
                add("certifySignature", &certified.signature);
                "self-asserted: the attestation key is bound to no endorsement certificate".to_owned()
            }
            Err(f) if f.class == Class::Unsupported => f.to_string(),
            Err(f) => return Err(f),
        };
        evidence.gaps.push(("TPM2_Certify".to_owned(), gap));
        Ok(())
    }

    /// An act with a key that is loaded, or loaded now, and is the recorded one.
    fn with_key<T>(
        &self,
        key: &KeyRef,
        act: impl Fn(&mut Connection, KeyHandle) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_connection(|connection| {
            let (handle, public) = connection.load(&self.directory, key.id, &self.auth)?;
            if public != key.public {
                return Err(super::refusal(Class::Mismatch, "TPM2_Load", "the key of this id has another public half"));
            }
            act(connection, handle)
        })
    }

    /// Runs an act on the connection; after a loss once more on a new one, if it leads to the same TPM.
    fn with_connection<T>(&self, act: impl Fn(&mut Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut again, mut earlier) = (held.is_some(), Outcome::Refused);
        loop {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => self.reconnect().map_err(|f| f.after(earlier))?,
            };
            match act(&mut connection).map_err(|f| f.after(earlier)) {
                Err(f) if matches!(f.class, Class::Session | Class::Module) && again => {
                    (again, earlier) = (false, f.outcome);
                }
                Err(f) if matches!(f.class, Class::Session | Class::Module) => return Err(f),
                answer => {
                    *held = Some(connection);
                    return answer;
                }
            }
        }
    }

    fn reconnect(&self) -> Result<Connection, Failure> {
        let connection =
            Connection::open(&self.profile, &self.directory).map_err(|e| super::unopened(Class::Token, "TPM", &e))?;
        if connection.primary_name != self.recorded.primary {
            let what = "the TPM was cleared or replaced: it has another storage primary";
            return Err(super::refusal(Class::Token, "TPM2_CreatePrimary", what));
        }
        Ok(connection)
    }
}

impl Connection {
    fn open(profile: &Profile, directory: &Path) -> Result<Connection> {
        let text = profile.tcti(directory)?;
        let away = |detail: String, hint: &str| {
            Error::new(Reason::TokenUnavailable, format!("the TPM at {text} cannot be reached"))
                .detail(detail)
                .hint(hint)
        };
        let unreachable = |e: Tss| {
            let hint = "Check that the device exists and that this user may open it (group tss).";
            away(fault::unreachable(&text, &e), hint)
        };
        let sockets = text.strip_prefix("swtpm:path=").map(|path| Loopback::start(Path::new(path))).transpose();
        let hint = "Start swtpm with this socket for commands and the same with .ctrl behind it for control; this user must be \
                    able to open both.";
        let loopback = sockets.map_err(|e| away(e.to_string(), hint))?;
        let tcti = loopback.as_ref().map_or_else(|| text.clone(), Loopback::tcti);
        let conf = TctiNameConf::from_str(&tcti).map_err(unreachable)?;
        let mut context = Context::new(conf).map_err(unreachable)?;
        flush_leftovers(&mut context);
        let primary = context
            .execute_with_nullauth_session(|c| {
                c.create_primary(Hierarchy::Owner, object::storage_primary()?, None, None, None, None)
            })
            .map_err(|e| failure("TPM2_CreatePrimary", &e))?
            .key_handle;
        let name = context.tr_get_name(ObjectHandle::from(primary)).map_err(|e| failure("TPM2_CreatePrimary", &e))?;
        let primary_name = hex::encode(name.value());
        // Salted by the primary, so that what goes over the bus is encrypted to the TPM.
        let session = salted_session(&mut context, primary).map_err(|e| failure("TPM2_StartAuthSession", &e))?;
        Ok(Connection { context, primary, primary_name, session, loaded: Vec::new(), _loopback: loopback })
    }

    fn create(&mut self, template: tss_esapi::structures::Public, auth: &Secret) -> Result<CreateKeyResult, Failure> {
        let (primary, session) = (self.primary, Some(self.session));
        let auth = Auth::try_from(auth.expose().to_vec()).map_err(|e| failure("TPM2_Create", &e))?;
        let create = |context: &mut Context| {
            context.execute_with_session(session, |c| {
                c.create(primary, template.clone(), Some(auth.clone()), None, None, None)
            })
        };
        match create(&mut self.context) {
            Err(e) if is_full(&e) => {
                self.unload_all();
                create(&mut self.context)
            }
            answer => answer,
        }
        .map_err(|e| failure("TPM2_Create", &e))
    }

    /// The handle and public half of a key, loaded from its file on first use.
    fn load(&mut self, directory: &Path, id: KeyId, auth: &Secret) -> Result<(KeyHandle, PublicKey), Failure> {
        if let Some(place) = self.loaded.iter().position(|loaded| loaded.id == id) {
            self.loaded[place..].rotate_left(1);
            let Loaded { handle, public, .. } = &self.loaded[self.loaded.len() - 1];
            return Ok((*handle, public.clone()));
        }
        // A file that cannot be used says nothing of the TPM, and nothing of other keys.
        let missing = |why: String| super::refusal(Class::KeyMissing, "TPM2_Load", why);
        let path = object::key_path(directory, id);
        let file = object::read::<KeyFile>(&path)
            .map_err(|e| missing(format!("the file of this key cannot be read: {}", e.message())))?
            .ok_or_else(|| missing("no private key of this id".to_owned()))?;
        let loading = |e: Tss| failure("TPM2_Load", &e);
        let (public, private) = file.parts().map_err(|e| missing(format!("{} holds no key: {e}", path.display())))?;
        let known = object::public_key(&public)
            .ok_or_else(|| super::refusal(Class::Mismatch, "TPM2_Load", "a key of another kind"))?;
        let auth = Auth::try_from(auth.expose().to_vec()).map_err(loading)?;
        while self.loaded.len() >= KEYS_MAX {
            self.unload(0);
        }
        let (primary, session) = (self.primary, Some(self.session));
        let load = |context: &mut Context| {
            context.execute_with_session(session, |c| c.load(primary, private.clone(), public.clone()))
        };
        let handle = match load(&mut self.context) {
            // Somebody else has objects in it; ours are loaded again when they are needed.
            Err(e) if is_full(&e) => {
                self.unload_all();
                load(&mut self.context)
            }
            answer => answer,
        }
        .map_err(loading)?;
        if let Err(e) = self.context.tr_set_auth(ObjectHandle::from(handle), auth) {
            let _ = self.context.flush_context(ObjectHandle::from(handle));
            return Err(loading(e));
        }
        self.loaded.push(Loaded { id, handle, public: known.clone() });
        Ok((handle, known))
    }

    /// Takes a key out of the TPM.
    fn unload(&mut self, place: usize) {
        let loaded = self.loaded.remove(place);
        // What cannot be flushed is gone already.
        let _ = self.context.flush_context(ObjectHandle::from(loaded.handle));
    }

    /// Takes all keys out of the TPM.
    fn unload_all(&mut self) {
        while !self.loaded.is_empty() {
            self.unload(0);
        }
    }

    fn sign(&mut self, key: KeyHandle, scheme: SignatureScheme, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        let signing = |e: Tss| failure("TPM2_Sign", &e);
        let digest = Digest::try_from(digest.to_vec()).map_err(signing)?;
        let outside = TPMT_TK_HASHCHECK { tag: TPM2_ST_HASHCHECK, hierarchy: TPM2_RH_NULL, digest: Default::default() };
        let ticket = HashcheckTicket::try_from(outside).map_err(signing)?;
        let session = Some(self.session);
        let signature =
            self.context.execute_with_session(session, |c| c.sign(key, digest, scheme, ticket)).map_err(signing)?;
        match signature {
            Signature::RsaSsa(rsa) => Ok(rsa.signature().value().to_vec()),
            Signature::EcDsa(ecdsa) => object::r_s(&ecdsa).ok_or_else(strange),
            _ => Err(strange()),
        }
    }

    fn describe(&mut self, recorded: &TokenFile) -> Result<Description, Failure> {
        let mut property = |tag| {
            let value = self.context.execute_without_session(|c| c.get_tpm_property(tag));
            value.map(Option::unwrap_or_default).map_err(|e| failure("TPM2_GetCapability", &e))
        };
        let words = |number: u32| -> String {
            number.to_be_bytes().into_iter().filter(u8::is_ascii_graphic).map(char::from).collect()
        };
        let manufacturer = words(property(PropertyTag::Manufacturer)?);
        let model = words(property(PropertyTag::VendorString1)?) + &words(property(PropertyTag::VendorString2)?);
        let (high, low) = (property(PropertyTag::FirmwareVersion1)?, property(PropertyTag::FirmwareVersion2)?);
        Ok(Description {
            label: recorded.label.clone(),
            serial: serial(&recorded.primary),
            manufacturer,
            model: format!("TPM 2.0 {model}"),
            firmware: format!("{}.{}.{}.{}", high >> 16, high & 0xffff, low >> 16, low & 0xffff),
            module_sha256: String::new(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.unload_all();
        for object in [self.primary.into(), SessionHandle::from(self.session).into()] {
            let _ = self.context.flush_context(object);
        }
    }
}

/// What TPM2_Sign gave is no signature by the key. It did sign.
fn strange() -> Failure {
    Failure {
        class: Class::Mismatch,
        outcome: Outcome::Unknown,
        function: "TPM2_Sign",
        code: "a signature of another form".to_owned(),
    }
}

/// Frees what an earlier user of this TPM left when it was killed: a TPM without a resource manager holds three
/// objects and three sessions. Behind a resource manager, nothing of others is shown.
fn flush_leftovers(context: &mut Context) {
    for first in [TPM2_TRANSIENT_FIRST, TPM2_LOADED_SESSION_FIRST] {
        let Ok((CapabilityData::Handles(left), _)) = context.get_capability(CapabilityType::Handles, first, 64) else {
            continue;
        };
        for handle in left.into_inner() {
            // What does not let itself be flushed shows when the room is needed.
            if let Ok(object) = context.tr_from_tpm_public(handle) {
                let _ = context.flush_context(object);
            }
        }
    }
}

/// Whether the TPM has no room for another object.
fn is_full(error: &Tss) -> bool {
    use tss_esapi::constants::response_code::Tss2ResponseCodeKind::{Memory, ObjectMemory};
    matches!(error, Tss::Tss2Error(code) if matches!(code.kind(), Some(ObjectMemory | Memory)))
}

fn salted_session(context: &mut Context, primary: KeyHandle) -> tss_esapi::Result<AuthSession> {
    let session = context
        .start_auth_session(
            Some(primary),
            None,
            None,
            SessionType::Hmac,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )?
        .ok_or(Tss::WrapperError(tss_esapi::WrapperErrorKind::WrongValueFromTpm))?;
    let (attributes, mask) =
        SessionAttributesBuilder::new().with_continue_session(true).with_decrypt(true).with_encrypt(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(session)
}

/// The serial number of a TPM token: the first 16 bytes of the primary's digest. It changes when the TPM is cleared.
fn serial(primary_name: &str) -> String {
    primary_name.chars().skip(4).take(32).collect()
}

/// The authorization of every key: SHA-256 of the PIN, which must be too long to guess.
fn auth_of(pin: &Pin) -> Result<Secret> {
    if pin.expose().chars().count() < PIN_CHARACTERS_MIN {
        return Err(Error::new(
            Reason::PinSource,
            format!("the PIN of a TPM token has at least {PIN_CHARACTERS_MIN} random characters"),
        )
        .hint("Write 32 random bytes as hexadecimal into the PIN source: nobody has to type it."));
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pin.expose().as_bytes());
    Ok(Secret::new(digest.as_ref().to_vec()))
}

const fn algorithm(hash: Hash) -> HashingAlgorithm {
    match hash {
        Hash::Sha1 => HashingAlgorithm::Sha1,
        Hash::Sha256 => HashingAlgorithm::Sha256,
    }
}
