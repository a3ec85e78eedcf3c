//! What only a TPM does: restart, clear, and the evidence in its own words.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use keyward::error::Reason;
use keyward::key::{Hash, KeyAlgorithm, KeyId};
use keyward::token::{Class, Generate, Generated, KeyRef, Outcome, Token};

use crate::kit::token::{Held, TestToken, USER_PIN};

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
    for _ in 0..3 {
        let failure = token.sign(&key, Hash::Sha256, &[7; 32]).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Token, Outcome::Refused), "{failure}");
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
