//! What a token shows of a key's attributes: what is compared, what is a gap, and what is no proof of anything.

use keyward::key::{Hash, KeyAlgorithm, KeyId};
use keyward::token::profile::Optional;
use keyward::token::{Class, Failure, Generate, Generated, Outcome, Token};

use crate::kit::token::faulty::Faulty;

/// Numbers of CKO_PUBLIC_KEY and CKO_PRIVATE_KEY, and of CKA_MODULUS, CKA_PUBLIC_EXPONENT and CKA_EC_POINT.
const CLASSES: [&str; 2] = ["0x2", "0x3"];
const NUMBERS: [&str; 3] = ["0x120", "0x122", "0x181"];
/// What modules say of an attribute that they do not show: arguments bad, type invalid, sensitive.
const ANSWERS: [(&str, &str); 3] =
    [("0x7", "CKR_ARGUMENTS_BAD"), ("0x12", "CKR_ATTRIBUTE_TYPE_INVALID"), ("0x11", "CKR_ATTRIBUTE_SENSITIVE")];

fn request(algorithm: KeyAlgorithm) -> Generate {
    let decrypt = algorithm != KeyAlgorithm::P256;
    Generate { id: KeyId::random().unwrap(), label: "attributes".to_owned(), algorithm, sign: true, decrypt }
}

fn generate(token: &dyn Token, algorithm: KeyAlgorithm) -> Result<Generated, Failure> {
    token.generate(&request(algorithm))
}

#[test]
fn an_attribute_that_the_profile_drops_is_a_recorded_gap() {
    let mut faulty = Faulty::new();
    faulty.test.profile.keys.omit = vec![Optional::Copyable, Optional::AllowedMechanisms];
    let token = faulty.test.open();
    let gaps = generate(&*token, KeyAlgorithm::Rsa(2048)).unwrap().evidence.gaps;
    let named: Vec<&str> = gaps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["CKA_COPYABLE", "CKA_ALLOWED_MECHANISMS"], "{gaps:?}");
    assert!(gaps.iter().all(|(_, why)| why.contains("not asked for")), "{gaps:?}");
}

#[test]
fn every_attribute_that_a_profile_may_drop_is_a_gap_of_every_key_while_it_is_dropped() {
    let mut faulty = Faulty::new();
    let all = [
        (Optional::Modifiable, "CKA_MODIFIABLE"),
        (Optional::Copyable, "CKA_COPYABLE"),
        (Optional::Derive, "CKA_DERIVE"),
        (Optional::SignRecover, "CKA_SIGN_RECOVER"),
        (Optional::WrapWithTrusted, "CKA_WRAP_WITH_TRUSTED"),
        (Optional::AlwaysAuthenticate, "CKA_ALWAYS_AUTHENTICATE"),
        (Optional::AllowedMechanisms, "CKA_ALLOWED_MECHANISMS"),
    ];
    faulty.test.profile.keys.omit = all.map(|(attribute, _)| attribute).to_vec();
    let token = faulty.test.open();
    for algorithm in [KeyAlgorithm::Rsa(2048), KeyAlgorithm::P256] {
        let gaps = generate(&*token, algorithm).unwrap().evidence.gaps;
        let named: Vec<&str> = gaps.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(named, all.map(|(_, name)| name), "{gaps:?}");
    }
}

#[test]
fn an_attribute_that_the_module_does_not_show_is_a_gap_with_the_modules_answer() {
    let faulty = Faulty::new();
    // CKA_SENSITIVE of the private half, CKA_WRAP of the public one.
    for (class, number, name) in [("0x3", "0x103", "CKA_SENSITIVE"), ("0x2", "0x106", "CKA_WRAP")] {
        for (value, answer) in ANSWERS {
            faulty.script(&format!("C_GetAttributeValue always deny {class} {number} {value}"));
            let gaps = generate(&*faulty.token, KeyAlgorithm::Rsa(2048)).unwrap().evidence.gaps;
            assert_eq!(gaps, [(name.to_owned(), answer.to_owned())]);
        }
    }
}

#[test]
fn a_private_object_that_does_not_show_its_modulus_is_compared_by_its_public_object() {
    let faulty = Faulty::new();
    for number in &NUMBERS[..2] {
        for (value, answer) in ANSWERS {
            // After a loss the key is found and compared again.
            faulty.script(&format!("C_SignInit 1 close-session\nC_GetAttributeValue always deny 0x3 {number} {value}"));
            let signature = faulty.sign().unwrap_or_else(|f| panic!("{number} {answer}: {f}"));
            assert!(faulty.verifies(&signature));
        }
    }
    faulty.script("C_GetAttributeValue always deny 0x3 0x120 0x7");
    generate(&*faulty.token, KeyAlgorithm::Rsa(2048)).unwrap();
    generate(&*faulty.token, KeyAlgorithm::P256).unwrap();
}

#[test]
fn a_module_that_shows_no_public_half_at_all_has_failed_and_shows_no_other_key() {
    let faulty = Faulty::new();
    for (value, answer) in ANSWERS {
        let deny = |class| NUMBERS.map(|number| format!("C_GetAttributeValue always deny {class} {number} {value}\n"));
        for line in CLASSES.map(deny).concat() {
            // One line of the script is obeyed at each call, so each is tried by itself.
            faulty.script(&format!("C_SignInit 1 close-session\n{line}"));
            match faulty.sign() {
                Ok(signature) => assert!(faulty.verifies(&signature), "{line}"),
                Err(f) => assert_eq!((f.class, f.code.as_str()), (Class::Token, answer), "{line}: {f}"),
            }
        }
        faulty.script(&format!("C_SignInit 1 close-session\nC_GetAttributeValue always return {value}"));
        let failure = faulty.sign().unwrap_err();
        assert_eq!(
            (failure.class, failure.outcome, failure.function, failure.code.as_str()),
            (Class::Token, Outcome::Refused, "C_GetAttributeValue", answer)
        );
        faulty.script("");
        faulty.signs_again_within(std::time::Duration::from_secs(20));
    }
}

#[test]
fn halves_of_different_keys_are_no_new_key() {
    let faulty = Faulty::new();
    // The modulus of the public object is not that of the private one.
    faulty.script("C_GetAttributeValue always spoil 0x2 0x120");
    let failure = generate(&*faulty.token, KeyAlgorithm::Rsa(2048)).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Mismatch, Outcome::Unknown), "{failure}");
    assert!(failure.code.contains("another public half"), "{failure}");
}

#[test]
fn a_key_that_got_another_id_than_the_one_asked_for_is_no_new_key() {
    let faulty = Faulty::new();
    for algorithm in [KeyAlgorithm::Rsa(2048), KeyAlgorithm::P256] {
        faulty.script("C_GenerateKeyPair 1 rename");
        let failure = generate(&*faulty.token, algorithm).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Mismatch, Outcome::Unknown), "{failure}");
        assert!(failure.code.contains("CKA_ID"), "{failure}");
    }
    // Nor is one whose id is not shown, and which is not found by it.
    faulty.script("C_GenerateKeyPair 1 rename\nC_GetAttributeValue always deny 0x3 0x102 0x7");
    let failure = generate(&*faulty.token, KeyAlgorithm::Rsa(2048)).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::KeyMissing, Outcome::Unknown), "{failure}");
    faulty.token.sign(&faulty.key, Hash::Sha256, &[7; 32]).unwrap();
}
