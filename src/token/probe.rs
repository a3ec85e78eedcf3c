//! Probe: what a token really does, found by doing it, held against its profile. Uses keys of role `probe` only.

use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rsa, signature};
use serde::Serialize;

use super::profile::Profile;
use super::{Class, Description, Failure, Generate, KeyRef, Padding, Token};
use crate::error::Result;
use crate::key::{Hash, KeyAlgorithm, KeyId, PublicKey};

/// How long a device that failed under the probe has to be back.
const BACK_MAX: Duration = Duration::from_secs(20);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// Label of the keys that a probe makes.
pub const KEY_LABEL: &str = "keyward probe";
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
    /// Ids of the keys that were made: they stay in the token.
    pub keys: Vec<KeyId>,
    /// Attributes of the probe's key that the device does not take or show.
    pub gaps: Vec<(String, String)>,
    /// Signatures per second of an RSA-2048 key by number of threads.
    pub curve: Vec<Rate>,
    /// Whether everything was tried and every row is as the profile says.
    pub as_profile: bool,
    /// What the device failed of without coming back: what stands after that was not tried.
    pub lost: Option<Failure>,
}

/// One capability.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was tried.
    pub capability: String,
    /// Whether the profile says that it works.
    pub profile: bool,
    /// Whether every token must do it, so that a profile has no word on it.
    pub must: bool,
    /// Whether it worked: the result was checked outside the token. `None` if that was not found out.
    pub device: Option<bool>,
    /// The device's answer, if it did not.
    pub answer: Option<Failure>,
    /// What the device itself failed of at a first try; the rest is of the second one, when it was back.
    pub first: Option<Failure>,
    /// How long it took, in microseconds.
    pub microseconds: u64,
}

/// A point of the scaling curve.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// Threads that signed at once.
    pub threads: usize,
    /// Signatures of all of them in a second; `None` if not all could be made.
    pub per_second: Option<f64>,
    /// The device's answer then.
    pub answer: Option<Failure>,
}

/// Tries everything that Keyward asks of a token, with fresh keys of role `probe`, which stay in the token. `device`
/// should be opened with a profile that allows everything ([`permissive`]), so that the device answers and not the
/// profile. `second` is how long each point of the curve is measured; `trying` is told what is tried next.
///
/// What the device itself fails of (it goes away, or its module must be started anew) says nothing of a capability: when
/// it is back, that is tried once more. If it does not come back, the report ends there and says so.
///
/// # Errors
/// `INTERNAL` if no key id can be made; the device's answer if it does not even describe itself.
pub fn probe(
    device: &dyn Token,
    profile: &Profile,
    curve: &[usize],
    second: Duration,
    mut trying: impl FnMut(&str),
) -> Result<Report> {
    let mut report = Report {
        profile: profile.name.clone(),
        token: device.describe()?,
        matrix: Vec::new(),
        keys: Vec::new(),
        gaps: Vec::new(),
        curve: Vec::new(),
        as_profile: false,
        lost: None,
    };
    let mut main_key = None;
    for algorithm in [KeyAlgorithm::Rsa(1024), KeyAlgorithm::Rsa(2048), KeyAlgorithm::Rsa(3072), KeyAlgorithm::P256] {
        let name = match algorithm {
            KeyAlgorithm::Rsa(bits) => format!("RSA-{bits}"),
            KeyAlgorithm::P256 => "P-256".to_owned(),
        };
        // An id for each try: of one that broke off nobody knows whether it left a key.
        let ids = [KeyId::random()?, KeyId::random()?];
        let mut next = ids.iter();
        let decrypt = algorithm != KeyAlgorithm::P256;
        let made =
            report.try_row(device, &mut trying, format!("generate {name}"), Some(profile.makes(algorithm)), || {
                let id = *next.next().unwrap_or(&ids[0]);
                let request = Generate { id, label: KEY_LABEL.to_owned(), algorithm, sign: true, decrypt };
                device.generate(&request).map(|made| (KeyRef { id, public: made.public }, made.evidence.gaps))
            });
        let Some((key, gaps)) = made else { continue };
        report.keys.push(key.id);
        report.try_row(device, &mut trying, format!("{name} SHA-256"), None, || sign(device, &key, Hash::Sha256));
        if algorithm == KeyAlgorithm::Rsa(1024) {
            report.try_row(device, &mut trying, format!("{name} SHA-1"), None, || sign(device, &key, Hash::Sha1));
        }
        if algorithm == KeyAlgorithm::Rsa(2048) {
            report.gaps = gaps;
            main_key = Some(key);
        }
    }
    if let Some(key) = main_key {
        report.try_row(device, &mut trying, "RSA-2048 SHA-1".to_owned(), None, || sign(device, &key, Hash::Sha1));
        for (padding, name) in [
            (Padding::Pkcs1, "RSA-2048 decrypt PKCS#1 v1.5"),
            (Padding::Oaep(Hash::Sha1), "RSA-2048 decrypt OAEP SHA-1"),
            (Padding::Oaep(Hash::Sha256), "RSA-2048 decrypt OAEP SHA-256"),
        ] {
            let listed = match padding {
                Padding::Pkcs1 => profile.keys.pkcs1_decrypt,
                Padding::Oaep(hash) => profile.keys.oaep.contains(&hash),
            };
            report.try_row(device, &mut trying, name.to_owned(), Some(listed), || round_trip(device, &key, padding));
        }
        report.try_row(device, &mut trying, "refuses what does not decrypt".to_owned(), None, || {
            refuses_garbage(device, &key)
        });
        for threads in curve {
            trying(&format!("the rate of {threads} sessions"));
            let (_, measured) = report.twice(device, || rate(device, &key, *threads, second));
            let Some(measured) = measured else { break };
            let (per_second, answer) = (measured.as_ref().ok().copied(), measured.err());
            report.curve.push(Rate { threads: *threads, per_second, answer });
        }
    }
    report.as_profile = report.lost.is_none() && report.matrix.iter().all(|row| Some(row.profile) == row.device);
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
    fn try_row<T>(
        &mut self,
        device: &dyn Token,
        trying: &mut impl FnMut(&str),
        capability: String,
        profile: Option<bool>,
        mut act: impl FnMut() -> Result<T, Failure>,
    ) -> Option<T> {
        trying(&capability);
        let (first, tried) = self.twice(device, || {
            let begin = Instant::now();
            act().map(|done| (done, u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)))
        });
        let worked = tried.as_ref().map(Result::is_ok);
        let (done, answer) = match tried {
            Some(Ok(done)) => (Some(done), None),
            Some(Err(failure)) => (None, Some(failure)),
            None => (None, None),
        };
        let (done, microseconds) = done.map_or((None, 0), |(done, microseconds)| (Some(done), microseconds));
        let (profile, must) = (profile.unwrap_or(true), profile.is_none());
        self.matrix.push(Row { capability, profile, must, device: worked, answer, first, microseconds });
        done
    }

    /// Does something, and once more if the device itself failed under it and is back; gives that failure too. Nothing is
    /// done with a device that is lost.
    fn twice<T>(
        &mut self,
        device: &dyn Token,
        mut act: impl FnMut() -> Result<T, Failure>,
    ) -> (Option<Failure>, Option<Result<T, Failure>>) {
        if self.lost.is_some() {
            return (None, None);
        }
        match act() {
            Err(first) if matches!(first.class, Class::Session | Class::Token | Class::Module | Class::Pin) => {
                match back(device) {
                    Ok(()) => (Some(first), Some(act())),
                    Err(failure) => {
                        self.lost = Some(failure);
                        (Some(first), None)
                    }
                }
            }
            answer => (None, Some(answer)),
        }
    }
}

/// Waits until the device says what it is. One whose PIN was refused does not come back by itself.
fn back(device: &dyn Token) -> Result<(), Failure> {
    let end = Instant::now() + BACK_MAX;
    loop {
        match device.describe() {
            Ok(_) => return Ok(()),
            Err(failure) if failure.class == Class::Pin || Instant::now() >= end => return Err(failure),
            Err(_) => std::thread::sleep(LOOK),
        }
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

/// Signatures in a second of so many threads, all of which must be made.
fn rate(device: &dyn Token, key: &KeyRef, threads: usize, time: Duration) -> Result<f64, Failure> {
    let begin = Instant::now();
    let sign = || -> Result<u32, Failure> {
        let mut count = 0;
        while begin.elapsed() < time {
            device.sign(key, Hash::Sha256, &[0x5a; 32])?;
            count += 1;
        }
        Ok(count)
    };
    let signed = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(sign)).collect();
        let broken = |_| Err(super::refusal(Class::Module, "probe", "a thread that signed broke off"));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(broken)).sum::<Result<u32, Failure>>()
    })?;
    Ok(f64::from(signed) / begin.elapsed().as_secs_f64())
}

fn wrong(what: &str) -> Failure {
    super::refusal(Class::Mismatch, "probe", what)
}
