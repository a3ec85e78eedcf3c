//! Probe: what a token really does, found by doing it, held against its profile. Uses keys of role `probe` only.

use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rsa, signature};
use serde::Serialize;

use super::profile::Profile;
use super::{Class, Description, Failure, Generate, KeyRef, Padding, Token};
use crate::error::Result;
use crate::key::{Hash, KeyAlgorithm, KeyId, PublicKey};

/// What is signed and sealed by a probe.
const MESSAGE: &[u8] = b"keyward token probe";

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The profile it was held against.
    pub profile: String,
    /// What the device says of itself.
    pub token: Description,
    /// One row for each capability.
    pub matrix: Vec<Row>,
    /// Attributes of the probe's key that the device does not take or show.
    pub gaps: Vec<(String, String)>,
    /// Signatures per second of an RSA-2048 key by number of threads.
    pub curve: Vec<Rate>,
    /// Whether every row is as the profile says.
    pub as_profile: bool,
}

/// One capability.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was tried.
    pub capability: String,
    /// Whether the profile says that it works.
    pub profile: bool,
    /// Whether it worked: the result was checked outside the token.
    pub device: bool,
    /// The device's answer, if it did not.
    pub answer: Option<String>,
    /// How long it took, in microseconds.
    pub microseconds: u64,
}

/// A point of the scaling curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// Threads that signed at once.
    pub threads: usize,
    /// Signatures of all of them in a second.
    pub per_second: f64,
}

/// Tries everything that Keyward asks of a token, with fresh keys of role `probe`, which stay in the token. `device`
/// should be opened with a profile that allows everything ([`permissive`]), so that the device answers and not the
/// profile. `second` is how long each point of the curve is measured.
///
/// # Errors
/// `INTERNAL` if no key id can be made; the device's answer if it does not even describe itself.
pub fn probe(device: &dyn Token, profile: &Profile, curve: &[usize], second: Duration) -> Result<Report> {
    let mut report = Report {
        profile: profile.name.clone(),
        token: device.describe()?,
        matrix: Vec::new(),
        gaps: Vec::new(),
        curve: Vec::new(),
        as_profile: true,
    };
    let mut main_key = None;
    for algorithm in [KeyAlgorithm::Rsa(1024), KeyAlgorithm::Rsa(2048), KeyAlgorithm::Rsa(3072), KeyAlgorithm::P256] {
        let name = match algorithm {
            KeyAlgorithm::Rsa(bits) => format!("RSA-{bits}"),
            KeyAlgorithm::P256 => "P-256".to_owned(),
        };
        let id = KeyId::random()?;
        let decrypt = algorithm != KeyAlgorithm::P256;
        let request = Generate { id, label: "keyward probe".to_owned(), algorithm, sign: true, decrypt };
        let made = report.try_row(format!("generate {name}"), profile.makes(algorithm), || device.generate(&request));
        let Some(made) = made else { continue };
        let key = KeyRef { id, public: made.public };
        report.try_row(format!("{name} SHA-256"), true, || sign(device, &key, Hash::Sha256));
        if algorithm == KeyAlgorithm::Rsa(1024) {
            report.try_row(format!("{name} SHA-1"), true, || sign(device, &key, Hash::Sha1));
        }
        if algorithm == KeyAlgorithm::Rsa(2048) {
            report.gaps = made.evidence.gaps;
            main_key = Some(key);
        }
    }
    if let Some(key) = main_key {
        report.try_row("RSA-2048 SHA-1".to_owned(), true, || sign(device, &key, Hash::Sha1));
        for (padding, name) in [
            (Padding::Pkcs1, "RSA-2048 decrypt PKCS#1 v1.5"),
            (Padding::Oaep(Hash::Sha1), "RSA-2048 decrypt OAEP SHA-1"),
            (Padding::Oaep(Hash::Sha256), "RSA-2048 decrypt OAEP SHA-256"),
        ] {
            let listed = match padding {
                Padding::Pkcs1 => profile.keys.pkcs1_decrypt,
                Padding::Oaep(hash) => profile.keys.oaep.contains(&hash),
            };
            report.try_row(name.to_owned(), listed, || round_trip(device, &key, padding));
        }
        report.try_row("refuses what does not decrypt".to_owned(), true, || refuses_garbage(device, &key));
        report.curve = curve.iter().map(|threads| rate(device, &key, *threads, second)).collect();
    }
    report.as_profile = report.matrix.iter().all(|row| row.profile == row.device);
    Ok(report)
}

/// The profile with every capability allowed, to open a device that is to be probed.
#[must_use]
pub fn permissive(profile: &Profile) -> Profile {
    let mut all = profile.clone();
    all.keys.rsa_bits = vec![1024, 2048, 3072, 4096];
    all.keys.p256 = true;
    all.keys.pkcs1_decrypt = true;
    all.keys.oaep = vec![Hash::Sha256, Hash::Sha1];
    all
}

/// The round trip that tells whether a token is well, when its answers to others' ciphertexts cannot: signs and verifies,
/// encrypts outside and decrypts.
///
/// # Errors
/// The device's answer, or [`Class::Mismatch`] if the signature does not verify or another plaintext comes out.
pub fn heartbeat(device: &dyn Token, probe_key: &KeyRef, padding: Padding) -> Result<(), Failure> {
    sign(device, probe_key, Hash::Sha256)?;
    round_trip(device, probe_key, padding)
}

impl Report {
    fn try_row<T>(&mut self, capability: String, profile: bool, act: impl FnOnce() -> Result<T, Failure>) -> Option<T> {
        let begin = Instant::now();
        let outcome = act();
        let microseconds = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let answer = outcome.as_ref().err().map(ToString::to_string);
        self.matrix.push(Row { capability, profile, device: outcome.is_ok(), answer, microseconds });
        outcome.ok()
    }
}

fn sign(device: &dyn Token, key: &KeyRef, hash: Hash) -> Result<(), Failure> {
    let digest = match hash {
        Hash::Sha1 => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, MESSAGE),
        Hash::Sha256 => digest::digest(&digest::SHA256, MESSAGE),
    };
    let signed = device.sign(key, hash, digest.as_ref())?;
    let (algorithm, public): (&'static dyn signature::VerificationAlgorithm, Vec<u8>) = match (&key.public, hash) {
        (PublicKey::Rsa(rsa), Hash::Sha1) => {
            (&signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, rsa.pkcs1_der())
        }
        (PublicKey::Rsa(rsa), Hash::Sha256) => {
            (&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, rsa.pkcs1_der())
        }
        (PublicKey::P256 { point }, _) => (&signature::ECDSA_P256_SHA256_FIXED, point.clone()),
    };
    signature::UnparsedPublicKey::new(algorithm, public)
        .verify(MESSAGE, &signed)
        .map_err(|_| wrong("a signature that does not verify"))
}

fn round_trip(device: &dyn Token, key: &KeyRef, padding: Padding) -> Result<(), Failure> {
    let plaintext = [0x5a; 16];
    let sealed = seal(&key.public, padding, &plaintext).ok_or_else(|| wrong("a key that nobody can encrypt to"))?;
    if device.decrypt(key, padding, &sealed)?.equals(&plaintext) { Ok(()) } else { Err(wrong("another plaintext")) }
}

/// Encrypts as others do, outside the token.
fn seal(public: &PublicKey, padding: Padding, plaintext: &[u8]) -> Option<Vec<u8>> {
    let key = rsa::PublicEncryptingKey::from_der(&public.spki_der()).ok()?;
    let mut out = vec![0u8; key.key_size_bytes()];
    match padding {
        Padding::Pkcs1 => {
            rsa::Pkcs1PublicEncryptingKey::new(key).ok()?.encrypt(plaintext, &mut out).ok()?;
        }
        Padding::Oaep(hash) => {
            let algorithm = match hash {
                Hash::Sha1 => &rsa::OAEP_SHA1_MGF1SHA1,
                Hash::Sha256 => &rsa::OAEP_SHA256_MGF1SHA256,
            };
            rsa::OaepPublicEncryptingKey::new(key).ok()?.encrypt(algorithm, plaintext, &mut out, None).ok()?;
        }
    }
    Some(out)
}

/// What does not decrypt must come back as the caller's fault, or as a random plaintext (implicit rejection).
fn refuses_garbage(device: &dyn Token, key: &KeyRef) -> Result<(), Failure> {
    match device.decrypt(key, Padding::Pkcs1, &[0x5a; 256]) {
        Ok(_) => Ok(()),
        Err(f) if matches!(f.class, Class::Caller | Class::Undecided) => Ok(()),
        Err(f) => Err(f),
    }
}

fn rate(device: &dyn Token, key: &KeyRef, threads: usize, time: Duration) -> Rate {
    let begin = Instant::now();
    let signed: u32 = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0u32;
                    while begin.elapsed() < time && device.sign(key, Hash::Sha256, &[0x5a; 32]).is_ok() {
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    Rate { threads, per_second: f64::from(signed) / begin.elapsed().as_secs_f64() }
}

fn wrong(what: &str) -> Failure {
    super::refusal(Class::Mismatch, "probe", what)
}
