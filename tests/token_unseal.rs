//! Opening sealed keys with a token: every fault of a sealed key looks the same, to the caller and to the token.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use keyward::custody::{StandIn, unseal};
use keyward::error::{Error, Reason};
use keyward::key::{KeyAlgorithm, KeyId, PublicKey};
use keyward::token::{Generate, KeyRef, Token};
use keyward::xrml::element::{EnablingBits, SealForm};
use keyward::xrml::sealed::{Payload, SealProfile};

use crate::kit::sealing::{BOUND, CONTENT, broken, good};
use crate::kit::token::faulty::Faulty;
use crate::kit::token::{Held, TestToken};

/// Mode 1 and Mode 2 as this device can do them.
fn modes(test: &TestToken) -> [(u32, SealProfile); 2] {
    let oaep = test.profile.keys.oaep[0];
    [(1024, SealProfile::of(SealForm::V1, oaep)), (2048, SealProfile::of(SealForm::V2, oaep))]
}

fn make(token: &dyn Token, bits: u32) -> KeyRef {
    let id = KeyId::random().unwrap();
    let algorithm = KeyAlgorithm::Rsa(bits);
    let request = Generate { id, label: "unseal".to_owned(), algorithm, sign: true, decrypt: true };
    KeyRef { id, public: token.generate(&request).unwrap().public }
}

/// Runs all cases; `around` runs each one and may look at the token before and after.
fn every_fault_looks_alike(
    test: &TestToken,
    token: &dyn Token,
    mut around: impl FnMut(&str, &mut dyn FnMut() -> Result<Payload, Error>) -> Result<Payload, Error>,
) {
    let stand_in = StandIn::new().unwrap();
    for (bits, profile) in modes(test) {
        let key = make(token, bits);
        let PublicKey::Rsa(public) = &key.public else { panic!("an RSA key") };
        let open = |bits: &EnablingBits, bound: &str| unseal(token, &key, bits, bound, &profile, &stand_in);
        let sealed = good(public, &profile);
        open(&sealed, BOUND).unwrap();
        let Payload::Content(content) = around("nothing wrong", &mut || open(&sealed, BOUND)).unwrap() else {
            panic!("a content key")
        };
        assert_eq!(content.key().expose(), CONTENT);
        let mut cases = broken(public, &profile);
        cases.push(("another text", sealed));
        let mut words = Vec::new();
        for (name, bits) in cases {
            let bound = if name == "another text" { "<ISSUER>another</ISSUER>" } else { BOUND };
            let error = around(name, &mut || open(&bits, bound)).expect_err(name);
            assert_eq!(error.reason(), Reason::UnsealFailed, "{name}: {error:?}");
            words.push(format!("{error} {error:?} {:?}", error.next_step()));
        }
        words.dedup();
        assert_eq!(words.len(), 1, "{words:?}");
    }
}

#[test]
fn every_fault_looks_alike_on_softhsm() {
    let test = TestToken::make("softhsm", Held::InProcess);
    every_fault_looks_alike(&test, &*test.open(), |_, open| open());
}

#[test]
fn every_fault_looks_alike_on_kryoptic() {
    let test = TestToken::make("kryoptic", Held::InProcess);
    every_fault_looks_alike(&test, &*test.open(), |_, open| open());
}

#[test]
fn every_fault_looks_alike_on_a_tpm_in_a_host() {
    let test = TestToken::make("swtpm", Held::InHost);
    every_fault_looks_alike(&test, &*test.open(), |_, open| open());
}

#[test]
fn every_fault_costs_a_module_the_same_calls_and_restarts_nothing() {
    for device in ["softhsm", "kryoptic"] {
        let faulty = Faulty::over(device);
        every_fault_looks_alike(&faulty.test, &*faulty.token, |name, open| {
            faulty.script("* always log");
            faulty.calls();
            let opened = open();
            faulty.script("");
            assert_eq!(faulty.calls(), ["C_DecryptInit", "C_Decrypt"], "{device}: {name}");
            opened
        });
        assert_eq!(faulty.token.restarts(), 0);
        assert!(faulty.verifies(&faulty.sign().unwrap()));
    }
}

#[test]
fn a_module_that_answers_bad_padding_with_a_random_text_is_no_different() {
    // What modules with implicit rejection do: a plaintext of another message, with C_Decrypt saying CKR_OK.
    let test = TestToken::make("softhsm", Held::InProcess);
    let token = test.open();
    let stand_in = StandIn::new().unwrap();
    for (bits, profile) in modes(&test) {
        let key = make(&*token, bits);
        let PublicKey::Rsa(public) = &key.public else { panic!("an RSA key") };
        let cases = broken(public, &profile);
        let [rejected, answered] = ["not below the modulus", "another session key"].map(|name| {
            let (_, bits) = cases.iter().find(|(known, _)| *known == name).unwrap();
            unseal(&*token, &key, bits, BOUND, &profile, &stand_in).unwrap_err()
        });
        assert_eq!(format!("{rejected:?} {rejected}"), format!("{answered:?} {answered}"));
    }
}

#[test]
fn a_token_that_did_not_try_is_not_a_failed_unsealing() {
    let faulty = Faulty::new();
    let PublicKey::Rsa(public) = &faulty.key.public else { panic!("an RSA key") };
    let profile = SealProfile::of(SealForm::V2, faulty.test.profile.keys.oaep[0]);
    let sealed = good(public, &profile);
    faulty.script("* always return 0xe0");
    let stand_in = StandIn::new().unwrap();
    let error = unseal(&*faulty.token, &faulty.key, &sealed, BOUND, &profile, &stand_in).unwrap_err();
    assert_eq!(error.reason(), Reason::TokenUnavailable, "{error:?}");
}
