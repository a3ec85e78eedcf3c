//! What only a TPM does: restart, clear, and the evidence in its own words.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::{digest, signature};
use keyward::error::Reason;
use keyward::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use keyward::token::host::{HostProgram, HostToken};
use keyward::token::{Class, Evidence, Generate, Generated, KeyRef, Outcome, Token};

use crate::kit::KEYWARD;
use crate::kit::token::between::{number, stand_before};
use crate::kit::token::manager::{CREATE_PRIMARY, Manager};
use crate::kit::token::{Held, TestToken, USER_PIN, pin};

fn make(token: &dyn Token) -> (KeyRef, Generated) {
    let id = KeyId::random().unwrap();
    let request =
        Generate { id, label: "tpm".to_owned(), algorithm: KeyAlgorithm::Rsa(2048), sign: true, decrypt: true };
    let made = token.generate(&request).unwrap();
    (KeyRef { id, public: made.public.clone() }, made)
}

#[test]
fn the_evidence_says_made_here_bound_here_and_what_it_does_not_prove() {
    let test = TestToken::make("swtpm", Held::InProcess);
    let (_, made) = make(&*test.open());
    for (name, value) in [
        ("fixedTPM", "true"),
        ("fixedParent", "true"),
        ("sensitiveDataOrigin", "true"),
        ("noDA", "true"),
        ("restricted", "false"),
        ("sign", "true"),
        ("decrypt", "true"),
    ] {
        assert!(made.evidence.attributes.contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
    let [(gap, words)] = made.evidence.gaps.as_slice() else { panic!("{:?}", made.evidence.gaps) };
    assert!(gap == "TPM2_Certify" && words.contains("self-asserted"));
}

#[test]
fn the_tpms_own_words_verify_and_name_the_key_the_parent_and_the_id() {
    let test = TestToken::make("swtpm", Held::InHost);
    let token = test.open();
    let (key, made) = make(&*token);
    let bytes = |evidence: &Evidence, name: &str| {
        let value = evidence.attributes.iter().find(|(known, _)| known == name);
        hex::decode(&value.unwrap_or_else(|| panic!("no {name}")).1).unwrap()
    };
    let of = |name: &str| bytes(&made.evidence, name);
    let sha256 = |text: &[u8]| digest::digest(&digest::SHA256, text).as_ref().to_vec();
    let holds = |whole: &[u8], part: &[u8]| whole.windows(part.len()).any(|window| window == part);

    // The attestation key ends with its point: two numbers of 32 bytes, each behind its length (TPM 2.0 Part 2, 11.2.5.2).
    let area = of("attestationKey");
    let (x, y) = (&area[area.len() - 66..area.len() - 34], &area[area.len() - 32..]);
    let point = [&[4u8][..], x, y].concat();
    let info = of("certifyInfo");
    let verifier = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
    verifier.verify(&info, &of("certifySignature")).unwrap();
    // TPM_GENERATED_VALUE and TPM_ST_ATTEST_CERTIFY, then somewhere the qualifying data and the key's name.
    assert_eq!(info[..6], [0xff, 0x54, 0x43, 0x47, 0x80, 0x17]);
    assert!(holds(&info, &key.id.0) && holds(&info, &[&[0x00, 0x0b][..], &sha256(&of("publicArea"))].concat()));
    let PublicKey::Rsa(rsa) = &key.public else { panic!("an RSA key") };
    assert!(holds(&of("publicArea"), rsa.modulus_be()));
    assert_eq!(sha256(&of("creationData")), of("creationHash"));
    assert!(holds(&of("creationData"), &of("parentName")));

    let (_, second) = make(&*token);
    assert_eq!(bytes(&second.evidence, "attestationKey"), area, "the attestation key of one TPM is the same");
}

#[test]
fn a_tpm_that_restarts_signs_again_with_the_same_keys() {
    let mut test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let (key, _) = make(&*token);
    let before = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap();
    for _ in 0..3 {
        test.device.as_mut().unwrap().restart();
        assert_eq!(token.sign(&key, Hash::Sha256, &[7; 32]).unwrap(), before);
    }
}

#[test]
fn a_tpm_that_is_away_is_said_so_and_serves_when_it_is_back() {
    let mut test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let (key, _) = make(&*token);
    test.device.as_mut().unwrap().stop();
    // What was asked first went to the device that was going away: nobody knows what became of it.
    for outcome in [Outcome::Unknown, Outcome::Refused, Outcome::Refused] {
        let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Token, outcome), "{failure}");
    }
    test.device.as_mut().unwrap().restart();
    token.sign(&key, Hash::Sha256, &[7; 32]).unwrap();
}

#[test]
fn a_cleared_tpm_is_recognised_and_named() {
    let mut test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let (key, _) = make(&*token);
    test.device.as_mut().unwrap().clear();
    let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
    assert!(failure.code.contains("cleared or replaced"), "{failure}");
    drop(token);
    let error = test.try_open(USER_PIN).err().unwrap();
    assert_eq!(error.reason(), Reason::TokenMissing);
    assert!(error.message().contains("cleared or replaced") && error.next_step().is_some(), "{error}");
}

#[test]
fn a_key_file_that_cannot_be_used_is_a_missing_key_and_says_nothing_of_other_keys() {
    let test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let ((key, _), (other, _)) = (make(&*token), make(&*token));
    drop(token);
    let file = test.binding.directory.as_ref().unwrap().join(format!("{}.tpmkey", key.id));
    let right = fs::read(&file).unwrap();
    for (text, words) in
        [("", "cannot be read"), ("{\"public\":\"00\",\"private\":\"00\",\"label\":\"\"}", "holds no key")]
    {
        fs::write(&file, text).unwrap();
        let token = test.open();
        let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::KeyMissing, Outcome::Refused), "{failure}");
        assert!(failure.code.contains(words) && failure.code.contains(".tpmkey"), "{failure}");
        token.sign(&other, Hash::Sha256, &[7; 32]).unwrap();
        // It is back as soon as the file is.
        fs::write(&file, &right).unwrap();
        token.sign(&key, Hash::Sha256, &[7; 32]).unwrap();
    }
}

#[test]
fn a_key_whose_file_could_not_be_written_to_its_end_may_have_been_made() {
    let test = TestToken::make("swtpm", Held::InHost);
    // A file is made, and no byte fits into it.
    let full = format!("trap '' XFSZ; ulimit -f 0; exec {KEYWARD} token-host");
    let program = HostProgram { path: "/bin/sh".into(), arguments: vec!["-c".into(), full.into()] };
    let token = HostToken::start(program, &test.binding, &test.profile, pin(USER_PIN)).unwrap();
    let id = KeyId::random().unwrap();
    let request = Generate { id, label: "tpm".to_owned(), algorithm: KeyAlgorithm::P256, sign: true, decrypt: false };
    let failure = token.generate(&request).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Token, Outcome::Unknown), "{failure}");
    assert!(failure.code.contains(".tpmkey: File too large"), "{failure}");
    // What was not even made is certainly not there.
    fs::remove_dir_all(test.binding.directory.as_ref().unwrap()).unwrap();
    let failure = token.generate(&Generate { id: KeyId::random().unwrap(), ..request }).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Token, Outcome::Refused), "{failure}");
}

#[test]
fn a_pin_that_could_be_guessed_is_not_taken() {
    let test = TestToken::make("swtpm", Held::InProcess);
    assert_eq!(test.try_open("123456").err().unwrap().reason(), Reason::PinSource);
}

#[test]
fn more_keys_than_the_tpm_holds_take_turns() {
    let test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let keys: Vec<KeyRef> = (0..5).map(|_| make(&*token).0).collect();
    for key in keys.iter().chain(&keys) {
        token.sign(key, Hash::Sha256, &[7; 32]).unwrap();
    }
}

#[test]
fn behind_a_resource_manager_keys_take_turns_within_the_three_objects_that_it_gives() {
    let test = TestToken::make("swtpm", Held::InProcess);
    let token = test.open();
    let keys: Vec<KeyRef> = (0..5).map(|_| make(&*token).0).collect();
    // A TPM has one user at a time.
    drop(token);
    let manager = Manager::before(test.binding.directory.as_ref().unwrap());
    let token = test.open();
    for key in keys.iter().chain(&keys) {
        token.sign(key, Hash::Sha256, &[7; 32]).unwrap();
    }
    assert_eq!(manager.count(CREATE_PRIMARY), 1, "no connection was lost");
    // With a new key, one more object is needed for a moment: the key that attests it.
    let (_, made) = make(&*token);
    assert!(made.evidence.attributes.iter().any(|(name, _)| name == "certifySignature"), "{:?}", made.evidence.gaps);
    assert_eq!(manager.count(CREATE_PRIMARY), 2);
}

#[test]
fn of_a_tpm_that_cannot_be_reached_the_system_says_why() {
    let mut test = TestToken::make("swtpm", Held::InProcess);
    test.profile.tpm.as_mut().unwrap().tcti = "device:/nowhere/tpm".to_owned();
    let error = test.try_open(USER_PIN).err().unwrap();
    assert_eq!(error.reason(), Reason::TokenUnavailable);
    assert!(error.private_detail().unwrap().contains("No such file"), "{error:?}");
}

/// Changes an answer to TPM2_Sign.
pub(crate) type Change = fn(&mut Vec<u8>);

/// TPM2_Sign.
pub(crate) const SIGN: u32 = 0x15d;

/// An answer to TPM2_Sign: its head of ten bytes, four of the parameters' length, two each of the scheme, of the hash and of
/// the length of the signature or of half of it, that, and what the session says of all that.
pub(crate) const CHANGES: [(&str, Change, &str); 11] = [
    ("another signature", |answer| answer[20] ^= 1, "not authentic"),
    ("RSASSA-PSS", |answer| answer[15] = 0x16, "not authentic"),
    ("SHA-1", |answer| answer[17] = 0x04, "not authentic"),
    ("no session", |answer| cut(answer, 14 + number(answer, 10)), "broke"),
    ("a part of it, as long as it says", |answer| cut(answer, 100), "broke"),
    ("a head, as long as it says", |answer| cut(answer, 10), "broke"),
    ("a part of it", |answer| answer.truncate(100), "broke"),
    ("nothing", Vec::clear, "broke"),
    ("an error of format zero", |answer| refuse(answer, 0x17e), "TPM_RC 0x17e"),
    ("a warning", |answer| refuse(answer, 0x97e), "TPM_RC 0x97e"),
    ("an error of format one", |answer| refuse(answer, 0x1fd), "TPM_RC 0x1fd"),
];

fn cut(answer: &mut Vec<u8>, length: u32) {
    answer.truncate(length as usize);
    answer[2..6].copy_from_slice(&length.to_be_bytes());
}

fn refuse(answer: &mut Vec<u8>, code: u32) {
    *answer = [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
}

/// Stands before a TPM, and changes what it answers to TPM2_Sign as long as there is a change.
pub(crate) fn change_signatures(directory: &Path) -> Arc<Mutex<Option<Change>>> {
    let change = Arc::new(Mutex::new(None::<Change>));
    let now = Arc::clone(&change);
    stand_before(directory, move |(): &mut (), command, mut answer| {
        if let Some(change) = *now.lock().unwrap()
            && number(command, 6) == SIGN
        {
            change(&mut answer);
        }
        Ok(answer)
    });
    change
}

#[test]
fn an_answer_that_is_not_what_the_tpm_said_is_no_signature_and_leaves_its_outcome_open() {
    for held in [Held::InProcess, Held::InHost] {
        // On ports, either way.
        let test = TestToken { held, ..TestToken::make("swtpm", Held::InProcess) };
        let change = change_signatures(test.binding.directory.as_ref().unwrap());
        let token = test.open();
        let (key, _) = make(&*token);
        let right = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap();
        for (what, made, words) in CHANGES {
            *change.lock().unwrap() = Some(made);
            let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
            assert_eq!((failure.class, failure.outcome), (Class::Session, Outcome::Unknown), "{what}: {failure}");
            assert!(failure.code.contains(words), "{what}: {failure}");
            *change.lock().unwrap() = None;
            assert_eq!(token.sign(&key, Hash::Sha256, &[7; 32]).unwrap(), right, "{what}");
        }
    }
}

#[test]
fn a_signature_that_is_shorter_than_the_modulus_is_none() {
    let mut test = TestToken::make("swtpm", Held::InHost);
    let says = test.device.as_mut().unwrap().sign_as_said();
    let token = test.open();
    let (key, _) = make(&*token);
    // The first signature comes after a test of itself, which must succeed.
    assert_eq!(token.sign(&key, Hash::Sha256, &[7; 32]).unwrap().len(), 256);
    fs::write(&says, "short").unwrap();
    let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Mismatch, Outcome::Unknown), "{failure}");
}
