//! The act of making a key pair in a token, and its proof by a decrypted challenge.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};

use crate::audit::chain::ChainHash;
use crate::audit::record::ActNote;
use crate::clock;
use crate::custody::{AsyncAct, Custody, Failed, KeyRecord, Recorded, Verified, sign, write};
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyId, KeyRole, KeyState, Mode, PublicKey};
use crate::policy::Permit;
use crate::store::{Kind, Write};
use crate::token::{Generate, Padding};

/// A key to be made.
#[derive(Clone, Debug)]
pub struct Making {
    /// Resource name it gets.
    pub name: String,
    /// What it will be for.
    pub role: KeyRole,
    /// Cryptographic mode.
    pub mode: Mode,
    /// The token's name in the configuration.
    pub token: String,
    /// Records that come into being together with the key.
    pub beside: Vec<Write>,
}

struct Make {
    making: Making,
    id: KeyId,
    deadline: Instant,
}

impl Custody {
    /// Makes a key pair inside a token, reads it back, proves it and records it as active.
    ///
    /// # Errors
    /// `TOKEN_MISMATCH` if the token does not hold the key as custody demands, or does not decrypt the challenge; the
    /// token's and the store's. The token may then hold a key that is not recorded: the log names its id.
    pub async fn generate(
        self: &Arc<Self>,
        permit: Permit,
        making: Making,
        deadline: Instant,
    ) -> Result<Recorded<KeyRecord>> {
        permit.require_making(&making.name, making.role)?;
        let id = KeyId::random()?;
        let note = ActNote::GenerateKey {
            key: making.name.clone(),
            id: id.to_string(),
            role: making.role.name().to_owned(),
            token: making.token.clone(),
        };
        self.perform(permit, note, Make { making, id, deadline }).await
    }
}

impl AsyncAct<KeyRecord> for Make {
    async fn run(self, custody: &Custody) -> Result<Verified<KeyRecord>, Failed> {
        let Make { making, id, deadline } = self;
        let oaep = custody.slot(&making.token)?.oaep;
        let request = Generate {
            id,
            label: making.name.clone(),
            algorithm: making.role.algorithm(making.mode),
            sign: making.role.signs(),
            decrypt: making.role.decrypts(),
        };
        let made = custody.ask_first(&making.token, deadline, move |token| token.generate(&request)).await?;
        let record = KeyRecord {
            name: making.name,
            role: making.role,
            mode: making.mode,
            state: KeyState::Active,
            before_missing: None,
            id,
            token: making.token,
            public: made.public,
            evidence: made.evidence,
            created_us: clock::now_us(),
        };
        // From here on the pair exists, whatever else goes wrong.
        prove(custody, &record, oaep, deadline).await.map_err(Failed::afterwards)?;
        let mut writes =
            vec![write(Kind::Key, &record.name, &record).map_err(|fault| Failed::from(fault).afterwards())?];
        writes.extend(making.beside);
        if record.role != KeyRole::Probe
            && let Ok(slot) = custody.slot(&record.token)
        {
            slot.needed.store(true, Ordering::Relaxed);
        }
        let result = format!("sha256:{}", ChainHash::of(&record.public.spki_der()));
        Ok(Verified::new(record, result, writes))
    }
}

/// Proves that the token holds the private half: it decrypts a fresh challenge. A signature would prove the same, but
/// a licensor key signs nothing that is not a document. Keys that only sign do it over a text of their role that is
/// no document, note or certificate.
async fn prove(custody: &Custody, key: &KeyRecord, oaep: Hash, deadline: Instant) -> Result<(), Failed> {
    let challenge: [u8; 32] = clock::random()?;
    if !key.role.decrypts() {
        let text = format!("keyward/key-challenge/v1\n{}\n{}\n", key.role.name(), hex::encode(challenge));
        let digest = ChainHash::of(text.as_bytes()).0;
        let in_token = key.in_token();
        let signature =
            custody.ask_first(&key.token, deadline, move |token| token.sign(&in_token, Hash::Sha256, &digest)).await?;
        let checked = sign::check(&sign::verifier(key)?, Hash::Sha256, &digest, &signature);
        return distrust(custody, key, checked).await;
    }
    let ciphertext = encrypt(&key.public, oaep, &challenge)?;
    let in_token = key.in_token();
    let answer = custody
        .ask_first(&key.token, deadline, move |token| token.decrypt(&in_token, Padding::Oaep(oaep), &ciphertext))
        .await?;
    let matches = Error::new(Reason::TokenMismatch, "the token does not decrypt under the public key that it gave");
    distrust(custody, key, if answer.equals(&challenge) { Ok(()) } else { Err(matches) }).await
}

/// A token that does not hold the key that it gave is not asked again.
async fn distrust(custody: &Custody, key: &KeyRecord, proved: Result<()>) -> Result<(), Failed> {
    if let Err(fault) = &proved {
        let maker = custody.slot(&key.token)?.first().to_owned();
        custody.quarantine(&key.token, &maker, fault.message()).await;
    }
    proved.map_err(Failed::from)
}

fn encrypt(public: &PublicKey, oaep: Hash, plaintext: &[u8]) -> Result<Vec<u8>> {
    let fault = || Error::new(Reason::Internal, "a challenge cannot be encrypted under the new key");
    let PublicKey::Rsa(rsa) = public else { return Err(fault()) };
    let key = PublicEncryptingKey::from_der(&rsa.spki_der()).map_err(|_| fault())?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| fault())?;
    let algorithm = match oaep {
        Hash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut ciphertext = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, plaintext, &mut ciphertext, None).map_err(|_| fault())?;
    Ok(ciphertext)
}
