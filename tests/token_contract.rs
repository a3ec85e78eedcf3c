//! The contract of the token port, over every profile whose device is at hand. Differences are data of the profile.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use aws_lc_rs::{digest, rsa, signature};
use keyward::error::Reason;
use keyward::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use keyward::token::initialise;
use keyward::token::{Class, Generate, Generated, KeyRef, Outcome, Padding, Token};

use crate::kit::token::{Held, TestToken, USER_PIN, pin};

/// Every test of the contract for every profile, in this process and in a host.
macro_rules! contract {
    ($($module:ident $profile:literal $held:ident)*; $tests:tt) => {
        $( mod $module { contract!(@ $profile $held $tests); } )*
    };
    (@ $profile:literal $held:ident { $($test:ident)* }) => { $(
        #[test]
        fn $test() {
            super::$test(&super::TestToken::make($profile, super::Held::$held));
        }
    )* };
}

contract! {
    softhsm "softhsm" InProcess
    kryoptic "kryoptic" InProcess
    softhsm_in_a_host "softhsm" InHost
    kryoptic_in_a_host "kryoptic" InHost
    swtpm "swtpm" InProcess
    swtpm_in_a_host "swtpm" InHost;
    {
        a_key_of_every_length_signs_what_others_verify
        a_p256_key_signs_in_fixed_form
        what_was_encrypted_to_the_key_is_decrypted
        an_oaep_hash_outside_the_profile_is_unsupported
        what_does_not_decrypt_is_the_callers_doing_and_the_token_works_on
        an_id_is_given_once
        a_key_is_found_again_after_reopening
        an_unknown_id_is_a_missing_key
        another_public_half_is_a_mismatch
        eight_threads_share_two_sessions
        label_and_serial_must_both_be_right
        a_label_is_given_once
        a_wrong_pin_is_refused_once_and_named
        description_names_the_device
    }
}

/// What only PKCS#11 devices have: attributes and a module.
mod pkcs11 {
    contract! {
        softhsm "softhsm" InProcess
        kryoptic "kryoptic" InProcess
        softhsm_in_a_host "softhsm" InHost
        kryoptic_in_a_host "kryoptic" InHost;
        {
            the_evidence_says_made_here_and_never_seen_outside
            a_missing_module_is_told_with_every_path
        }
    }
    use super::{
        Held, TestToken, a_missing_module_is_told_with_every_path, the_evidence_says_made_here_and_never_seen_outside,
    };
}

const MESSAGE: &[u8] = b"a message of the token contract";

fn make(token: &dyn Token, algorithm: KeyAlgorithm) -> (KeyRef, Generated) {
    let id = KeyId::random().unwrap();
    let decrypt = algorithm != KeyAlgorithm::P256;
    let made = token.generate(&Generate { id, label: "contract".to_owned(), algorithm, sign: true, decrypt }).unwrap();
    (KeyRef { id, public: made.public.clone() }, made)
}

fn digest_of(hash: Hash) -> digest::Digest {
    match hash {
        Hash::Sha1 => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, MESSAGE),
        Hash::Sha256 => digest::digest(&digest::SHA256, MESSAGE),
    }
}

fn verify(public: &PublicKey, hash: Hash, signature: &[u8]) {
    let algorithm: (&dyn signature::VerificationAlgorithm, Vec<u8>) = match (public, hash) {
        (PublicKey::Rsa(key), Hash::Sha1) => {
            (&signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, key.pkcs1_der())
        }
        (PublicKey::Rsa(key), Hash::Sha256) => {
            (&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key.pkcs1_der())
        }
        (PublicKey::P256 { point }, _) => (&signature::ECDSA_P256_SHA256_FIXED, point.clone()),
    };
    signature::UnparsedPublicKey::new(algorithm.0, algorithm.1).verify(MESSAGE, signature).unwrap();
}

/// Encrypts as a client does, with a library that is not the token.
fn encrypt(public: &PublicKey, padding: Padding, plaintext: &[u8]) -> Vec<u8> {
    let key = rsa::PublicEncryptingKey::from_der(&public.spki_der()).unwrap();
    let mut out = vec![0u8; key.key_size_bytes()];
    let oaep = |algorithm, out: &mut [u8]| {
        let key = rsa::OaepPublicEncryptingKey::new(key.clone()).unwrap();
        key.encrypt(algorithm, plaintext, out, None).unwrap().len()
    };
    match padding {
        Padding::Pkcs1 => {
            let key = rsa::Pkcs1PublicEncryptingKey::new(key).unwrap();
            key.encrypt(plaintext, &mut out).unwrap();
        }
        Padding::Oaep(Hash::Sha1) => {
            oaep(&rsa::OAEP_SHA1_MGF1SHA1, &mut out);
        }
        Padding::Oaep(Hash::Sha256) => {
            oaep(&rsa::OAEP_SHA256_MGF1SHA256, &mut out);
        }
    }
    out
}

fn paddings(test: &TestToken) -> Vec<Padding> {
    let pkcs1 = test.profile.keys.pkcs1_decrypt.then_some(Padding::Pkcs1);
    pkcs1.into_iter().chain(test.profile.keys.oaep.iter().map(|hash| Padding::Oaep(*hash))).collect()
}

fn a_key_of_every_length_signs_what_others_verify(test: &TestToken) {
    let token = test.open();
    for bits in test.profile.keys.rsa_bits.iter().filter(|bits| **bits <= 3072) {
        let (key, _) = make(&*token, KeyAlgorithm::Rsa(*bits));
        for hash in [Hash::Sha256, Hash::Sha1] {
            let signature = token.sign(&key, hash, digest_of(hash).as_ref()).unwrap();
            assert_eq!(signature.len() * 8, *bits as usize);
            verify(&key.public, hash, &signature);
        }
    }
}

fn a_p256_key_signs_in_fixed_form(test: &TestToken) {
    let token = test.open();
    let (key, made) = make(&*token, KeyAlgorithm::P256);
    let signature = token.sign(&key, Hash::Sha256, digest_of(Hash::Sha256).as_ref()).unwrap();
    assert_eq!(signature.len(), 64);
    verify(&key.public, Hash::Sha256, &signature);
    let decrypts = made.evidence.attributes.iter().find(|(name, _)| name.to_lowercase().ends_with("decrypt")).unwrap();
    assert_eq!(decrypts.1, "false");
}

fn the_evidence_says_made_here_and_never_seen_outside(test: &TestToken) {
    let token = test.open();
    let (_, made) = make(&*token, KeyAlgorithm::Rsa(2048));
    let value = |name: &str| {
        made.evidence.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or("(none)")
    };
    for name in ["CKA_LOCAL", "CKA_SENSITIVE", "CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE", "CKA_SIGN", "CKA_TOKEN"]
    {
        assert_eq!(value(name), "true", "{name}");
    }
    for name in ["CKA_EXTRACTABLE", "CKA_MODIFIABLE", "CKA_COPYABLE", "CKA_UNWRAP", "CKA_DERIVE", "CKA_SIGN_RECOVER"] {
        assert_eq!(value(name), "false", "{name}");
    }
    assert_eq!(value("CKA_KEY_GEN_MECHANISM"), "CKM_RSA_PKCS_KEY_PAIR_GEN");
    assert_eq!((value("CKA_MODULUS_BITS"), value("CKA_PUBLIC_EXPONENT")), ("2048", "010001"));
    assert_eq!(value("CKA_ALLOWED_MECHANISMS"), "CKM_RSA_PKCS CKM_RSA_PKCS_OAEP");
    assert_eq!(made.evidence.gaps.len(), test.profile.keys.omit.len(), "{:?}", made.evidence.gaps);
    assert_eq!(made.evidence.token.serial, test.binding.serial);
}

fn what_was_encrypted_to_the_key_is_decrypted(test: &TestToken) {
    let token = test.open();
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let session_key = [0x5au8; 16];
    for padding in paddings(test) {
        let sealed = encrypt(&key.public, padding, &session_key);
        assert!(token.decrypt(&key, padding, &sealed).unwrap().equals(&session_key), "{padding:?}");
    }
}

fn an_oaep_hash_outside_the_profile_is_unsupported(test: &TestToken) {
    let token = test.open();
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    for hash in [Hash::Sha1, Hash::Sha256].into_iter().filter(|hash| !test.profile.keys.oaep.contains(hash)) {
        let failure = token.decrypt(&key, Padding::Oaep(hash), &[1; 256]).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Unsupported, Outcome::Refused), "{failure}");
    }
}

fn what_does_not_decrypt_is_the_callers_doing_and_the_token_works_on(test: &TestToken) {
    let token = test.open();
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    for padding in paddings(test) {
        let mut sealed = encrypt(&key.public, padding, &[7; 16]);
        sealed[100] ^= 1;
        for bad in [sealed.as_slice(), &sealed[..255], &[0x00; 256], &[0xff; 256], &[]] {
            let failure = token.decrypt(&key, padding, bad).unwrap_err();
            assert!(matches!(failure.class, Class::Caller | Class::Undecided), "{padding:?} {failure}");
            assert_eq!(failure.outcome, Outcome::Refused, "{padding:?} {failure}");
        }
    }
    token.sign(&key, Hash::Sha256, digest_of(Hash::Sha256).as_ref()).unwrap();
}

fn an_id_is_given_once(test: &TestToken) {
    let token = test.open();
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let again = Generate {
        id: key.id,
        label: "again".to_owned(),
        algorithm: KeyAlgorithm::Rsa(2048),
        sign: true,
        decrypt: false,
    };
    let failure = token.generate(&again).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Caller, Outcome::Refused), "{failure}");
    assert_eq!(token.public_key(key.id).unwrap(), key.public);
}

fn a_key_is_found_again_after_reopening(test: &TestToken) {
    let (key, _) = make(&*test.open(), KeyAlgorithm::Rsa(2048));
    let token = test.open();
    assert_eq!(token.public_key(key.id).unwrap(), key.public);
    verify(&key.public, Hash::Sha256, &token.sign(&key, Hash::Sha256, digest_of(Hash::Sha256).as_ref()).unwrap());
}

fn an_unknown_id_is_a_missing_key(test: &TestToken) {
    let token = test.open();
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let gone = KeyRef { id: KeyId([9; 20]), public: key.public };
    assert_eq!(token.public_key(gone.id).unwrap_err().class, Class::KeyMissing);
    assert_eq!(token.sign(&gone, Hash::Sha256, &[0; 32]).unwrap_err().class, Class::KeyMissing);
}

fn another_public_half_is_a_mismatch(test: &TestToken) {
    let token = test.open();
    let (first, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let (second, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let swapped = KeyRef { id: first.id, public: second.public };
    assert_eq!(token.sign(&swapped, Hash::Sha256, &[0; 32]).unwrap_err().class, Class::Mismatch);
    token.sign(&first, Hash::Sha256, &[0; 32]).unwrap();
    assert_eq!(token.sign(&swapped, Hash::Sha256, &[0; 32]).unwrap_err().class, Class::Mismatch);
}

fn eight_threads_share_two_sessions(test: &TestToken) {
    let token: Arc<dyn Token> = Arc::from(test.open());
    let (key, _) = make(&*token, KeyAlgorithm::Rsa(2048));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (token, key) = (Arc::clone(&token), key.clone());
            std::thread::spawn(move || {
                for _ in 0..10 {
                    let digest = digest_of(Hash::Sha256);
                    verify(&key.public, Hash::Sha256, &token.sign(&key, Hash::Sha256, digest.as_ref()).unwrap());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn label_and_serial_must_both_be_right(test: &TestToken) {
    for (label, serial) in [("other", test.binding.serial.as_str()), (test.binding.label.as_str(), "0000")] {
        let mut binding = test.binding.clone();
        (binding.label, binding.serial) = (label.to_owned(), serial.to_owned());
        let error = test.described_as(test.profile.clone(), binding).try_open(USER_PIN).err().unwrap();
        assert_eq!(error.reason(), Reason::TokenMissing);
        assert!(error.message().contains(&test.binding.serial), "{error}");
    }
}

fn a_label_is_given_once(test: &TestToken) {
    let directory = test.binding.directory.as_ref().unwrap();
    let label = &test.binding.label;
    let error = initialise(&test.profile, directory, label, &pin("so-pin"), &pin(USER_PIN)).unwrap_err();
    assert_eq!(error.reason(), Reason::AlreadyExists, "{error}");
}

fn a_wrong_pin_is_refused_once_and_named(test: &TestToken) {
    let error = test.try_open("not the PIN of the token under test").err().unwrap();
    assert_eq!(error.reason(), Reason::PinRefused, "{error:?}");
    assert!(!format!("{error:?} {:?}", error.next_step()).contains("not the PIN of the token under test"));
}

fn a_missing_module_is_told_with_every_path(test: &TestToken) {
    let mut profile = test.profile.clone();
    profile.module.paths = vec!["/nowhere/one.so".into(), "/nowhere/two.so".into()];
    let error = test.described_as(profile, test.binding.clone()).try_open(USER_PIN).err().unwrap();
    assert_eq!(error.reason(), Reason::ModuleMissing);
    assert!(error.message().contains("/nowhere/one.so") && error.message().contains("/nowhere/two.so"), "{error}");
    assert!(error.next_step().is_some());
}

fn description_names_the_device(test: &TestToken) {
    let said = test.open().describe().unwrap();
    assert_eq!((said.label, said.serial), (test.binding.label.clone(), test.binding.serial.clone()));
    assert!(!said.model.is_empty() && !said.firmware.is_empty());
}
