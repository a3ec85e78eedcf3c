//! What a token does to us, one fault at a time, by a module that fails by script; and what its caller sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use keyward::error::Reason;
use keyward::key::{KeyAlgorithm, KeyId};
use keyward::token::pkcs11::fault::{Act, classify};
use keyward::token::{Class, Generate, Outcome, Padding, Token};

use crate::kit::token::USER_PIN;
use crate::kit::token::faulty::{Faulty, make};

#[test]
fn a_lost_session_or_login_is_renewed_without_the_caller_noticing() {
    let faulty = Faulty::new();
    for script in [
        "C_SignInit 1 close-session",
        "C_SignInit 1 logout",
        "C_Sign 1 return 0xb3",
        "C_Sign 1 return 0xb0",
        "C_SignInit 1 return 0x101",
        "C_SignInit 1 return 0x60",
        "C_Sign 1 return 0x30",
        "C_Sign 1 return 0x5",
        "C_Sign 1 return 0x32",
    ] {
        faulty.script(script);
        let signature = faulty.sign().unwrap_or_else(|f| panic!("{script}: {f}"));
        assert!(faulty.verifies(&signature), "{script}");
    }
    assert_eq!(faulty.token.restarts(), 0);
}

#[test]
fn a_key_that_was_swapped_is_a_mismatch_and_never_signs() {
    let faulty = Faulty::new();
    let other = make(&*faulty.token);
    // After a loss the key is found again; the token then shows another key under the same id.
    faulty.script(&format!("C_SignInit 1 close-session\nC_FindObjectsInit always swap {} {}", faulty.key.id, other.id));
    let failure = faulty.sign().unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Mismatch, Outcome::Refused), "{failure}");
}

#[test]
fn a_wrong_signature_is_given_to_the_caller_who_must_verify() {
    let faulty = Faulty::new();
    faulty.script("C_Sign always corrupt");
    assert!(!faulty.verifies(&faulty.sign().unwrap()));
}

#[test]
fn a_token_that_goes_and_comes_back_serves_within_two_seconds() {
    let faulty = Faulty::new();
    for value in ["0xe0", "0x32", "0x31"] {
        faulty.script(&format!("* always return {value}"));
        let failure = faulty.sign().unwrap_err();
        assert_eq!(failure.class, Class::Token, "{failure}");
        std::thread::sleep(Duration::from_secs(2));
        assert!(faulty.sign().is_err());
        faulty.script("");
        faulty.signs_again_within(Duration::from_secs(2));
    }
    assert_eq!(faulty.token.restarts(), 0);
}

#[test]
fn a_hanging_module_is_killed_and_the_signature_comes_from_the_next_host() {
    let faulty = Faulty::new();
    faulty.script("C_Sign 1 hang");
    let before = faulty.token.pid();
    let begin = Instant::now();
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    let limit = Duration::from_millis(faulty.test.profile.sessions.call_ms_max) + Duration::from_secs(1);
    assert!(begin.elapsed() < limit, "it took {:?}", begin.elapsed());
    assert_eq!(faulty.token.restarts(), 1);
    assert_ne!(faulty.token.pid(), before);
}

#[test]
fn a_crashing_module_costs_one_restart_and_no_signature() {
    let faulty = Faulty::new();
    faulty.script("C_Sign 1 crash");
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    assert_eq!(faulty.token.restarts(), 1);
}

#[test]
fn a_module_that_lost_its_initialisation_is_started_again() {
    let faulty = Faulty::new();
    faulty.script("C_SignInit 1 return 0x190");
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    assert_eq!(faulty.token.restarts(), 1);
}

#[test]
fn a_host_that_is_killed_is_started_again() {
    let faulty = Faulty::new();
    let pid = rustix::process::Pid::from_raw(faulty.token.pid().unwrap().try_into().unwrap()).unwrap();
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    faulty.signs_again_within(Duration::from_secs(2));
}

#[test]
fn a_crash_during_generation_is_an_unknown_outcome_and_not_repeated() {
    let faulty = Faulty::new();
    faulty.script("C_GenerateKeyPair 1 crash");
    let request = Generate {
        id: KeyId::random().unwrap(),
        label: "lost".to_owned(),
        algorithm: KeyAlgorithm::Rsa(2048),
        sign: true,
        decrypt: true,
    };
    let failure = faulty.token.generate(&request).unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Module, Outcome::Unknown), "{failure}");
    faulty.signs_again_within(Duration::from_secs(2));
    assert_eq!(faulty.token.public_key(request.id).unwrap_err().class, Class::KeyMissing);
}

#[test]
fn a_refused_pin_is_tried_once_whatever_is_asked_afterwards() {
    let faulty = Faulty::new();
    // The login is lost, and the PIN is no longer the right one.
    faulty.script("C_Login 9 return 0xa0\nC_SignInit 1 logout");
    for _ in 0..5 {
        let failure = faulty.sign().unwrap_err();
        assert_eq!(failure.class, Class::Pin, "{failure}");
    }
    assert_eq!(faulty.happened(), 1);
}

#[test]
fn a_refused_pin_at_a_restart_of_the_host_is_tried_once() {
    let faulty = Faulty::new();
    faulty.script("C_Login 9 return 0xa0\nC_Sign 1 crash");
    for _ in 0..5 {
        let failure = faulty.sign().unwrap_err();
        assert_eq!(failure.class, Class::Pin, "{failure}");
    }
    assert_eq!(faulty.happened(), 1);
}

#[test]
fn a_pin_that_the_token_guards_is_not_tried() {
    let faulty = Faulty::new();
    // CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKF_USER_PIN_TO_BE_CHANGED
    for flags in ["0x20000", "0x40000", "0x80000"] {
        faulty.script(&format!("C_Login 9 return 0xa0\nC_GetTokenInfo always flags {flags}"));
        let error = faulty.test.try_open(USER_PIN).err().unwrap();
        assert_eq!(error.reason(), Reason::PinLatched, "{error:?}");
        assert!(error.next_step().is_some());
    }
    assert_eq!(faulty.happened(), 0);
}

#[test]
fn every_value_at_decryption_that_means_bad_input_leaves_token_and_host_alone() {
    let faulty = Faulty::new();
    for value in ["0x5", "0x30", "0x6", "0x7", "0x20", "0x21", "0x40", "0x41"] {
        faulty.script(&format!("C_Decrypt always return {value}"));
        let failure = faulty.token.decrypt(&faulty.key, Padding::Pkcs1, &[1; 256]).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Caller, Outcome::Refused), "{value} {failure}");
    }
    faulty.script("");
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    assert_eq!(faulty.token.restarts(), 0);
}

#[test]
fn two_hundred_losses_leave_no_descriptor_thread_or_session_behind() {
    let faulty = Faulty::new();
    let pid = faulty.token.pid().unwrap();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    faulty.sign().unwrap();
    let before = (count("task"), own());
    for n in 0..200 {
        faulty.script(["C_SignInit 1 close-session", "C_SignInit 1 logout"][n % 2]);
        assert!(faulty.verifies(&faulty.sign().unwrap()));
    }
    assert_eq!((count("task"), own()), before);
    assert_eq!(faulty.token.pid(), Some(pid));
}

#[test]
fn every_kind_of_bad_ciphertext_costs_the_same_calls() {
    let faulty = Faulty::new();
    for padding in [Padding::Pkcs1, Padding::Oaep(keyward::key::Hash::Sha1)] {
        for bad in [vec![0u8; 256], vec![0xff; 256], vec![7; 256], vec![7; 255], vec![7; 257], vec![7; 1], vec![]] {
            // A delay of nothing, taken at each call: the markers count them.
            faulty.script("C_Decrypt 99 delay 0\nC_DecryptInit 99 delay 0\nC_FindObjectsInit 99 delay 0");
            let failure = faulty.token.decrypt(&faulty.key, padding, &bad).unwrap_err();
            assert_eq!(failure.class, Class::Caller, "{failure}");
            let calls = [0, 1, 2].map(|line| faulty.happened_in(line));
            assert!(calls[0] == 1 && calls[1] == 1 && calls[2] <= 1, "{} bytes: {calls:?}", bad.len());
        }
    }
}

/// Every return value of PKCS#11 2.40 and 3.1 by number and name; 0x80000001 is a maker's own.
const VALUES: &[(u64, &str)] = &[
    (0x01, "CKR_CANCEL"),
    (0x02, "CKR_HOST_MEMORY"),
    (0x03, "CKR_SLOT_ID_INVALID"),
    (0x05, "CKR_GENERAL_ERROR"),
    (0x06, "CKR_FUNCTION_FAILED"),
    (0x07, "CKR_ARGUMENTS_BAD"),
    (0x08, "CKR_NO_EVENT"),
    (0x09, "CKR_NEED_TO_CREATE_THREADS"),
    (0x0a, "CKR_CANT_LOCK"),
    (0x10, "CKR_ATTRIBUTE_READ_ONLY"),
    (0x11, "CKR_ATTRIBUTE_SENSITIVE"),
    (0x12, "CKR_ATTRIBUTE_TYPE_INVALID"),
    (0x13, "CKR_ATTRIBUTE_VALUE_INVALID"),
    (0x1b, "CKR_ACTION_PROHIBITED"),
    (0x20, "CKR_DATA_INVALID"),
    (0x21, "CKR_DATA_LEN_RANGE"),
    (0x30, "CKR_DEVICE_ERROR"),
    (0x31, "CKR_DEVICE_MEMORY"),
    (0x32, "CKR_DEVICE_REMOVED"),
    (0x40, "CKR_ENCRYPTED_DATA_INVALID"),
    (0x41, "CKR_ENCRYPTED_DATA_LEN_RANGE"),
    (0x50, "CKR_FUNCTION_CANCELED"),
    (0x51, "CKR_FUNCTION_NOT_PARALLEL"),
    (0x54, "CKR_FUNCTION_NOT_SUPPORTED"),
    (0x60, "CKR_KEY_HANDLE_INVALID"),
    (0x62, "CKR_KEY_SIZE_RANGE"),
    (0x63, "CKR_KEY_TYPE_INCONSISTENT"),
    (0x64, "CKR_KEY_NOT_NEEDED"),
    (0x65, "CKR_KEY_CHANGED"),
    (0x66, "CKR_KEY_NEEDED"),
    (0x67, "CKR_KEY_INDIGESTIBLE"),
    (0x68, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
    (0x69, "CKR_KEY_NOT_WRAPPABLE"),
    (0x6a, "CKR_KEY_UNEXTRACTABLE"),
    (0x70, "CKR_MECHANISM_INVALID"),
    (0x71, "CKR_MECHANISM_PARAM_INVALID"),
    (0x82, "CKR_OBJECT_HANDLE_INVALID"),
    (0x90, "CKR_OPERATION_ACTIVE"),
    (0x91, "CKR_OPERATION_NOT_INITIALIZED"),
    (0xa0, "CKR_PIN_INCORRECT"),
    (0xa1, "CKR_PIN_INVALID"),
    (0xa2, "CKR_PIN_LEN_RANGE"),
    (0xa3, "CKR_PIN_EXPIRED"),
    (0xa4, "CKR_PIN_LOCKED"),
    (0xb0, "CKR_SESSION_CLOSED"),
    (0xb1, "CKR_SESSION_COUNT"),
    (0xb3, "CKR_SESSION_HANDLE_INVALID"),
    (0xb4, "CKR_SESSION_PARALLEL_NOT_SUPPORTED"),
    (0xb5, "CKR_SESSION_READ_ONLY"),
    (0xb6, "CKR_SESSION_EXISTS"),
    (0xb7, "CKR_SESSION_READ_ONLY_EXISTS"),
    (0xb8, "CKR_SESSION_READ_WRITE_SO_EXISTS"),
    (0xc0, "CKR_SIGNATURE_INVALID"),
    (0xc1, "CKR_SIGNATURE_LEN_RANGE"),
    (0xd0, "CKR_TEMPLATE_INCOMPLETE"),
    (0xd1, "CKR_TEMPLATE_INCONSISTENT"),
    (0xe0, "CKR_TOKEN_NOT_PRESENT"),
    (0xe1, "CKR_TOKEN_NOT_RECOGNIZED"),
    (0xe2, "CKR_TOKEN_WRITE_PROTECTED"),
    (0x100, "CKR_USER_ALREADY_LOGGED_IN"),
    (0x101, "CKR_USER_NOT_LOGGED_IN"),
    (0x102, "CKR_USER_PIN_NOT_INITIALIZED"),
    (0x103, "CKR_USER_TYPE_INVALID"),
    (0x104, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN"),
    (0x105, "CKR_USER_TOO_MANY_TYPES"),
    (0x130, "CKR_DOMAIN_PARAMS_INVALID"),
    (0x140, "CKR_CURVE_NOT_SUPPORTED"),
    (0x150, "CKR_BUFFER_TOO_SMALL"),
    (0x170, "CKR_INFORMATION_SENSITIVE"),
    (0x190, "CKR_CRYPTOKI_NOT_INITIALIZED"),
    (0x191, "CKR_CRYPTOKI_ALREADY_INITIALIZED"),
    (0x1a0, "CKR_MUTEX_BAD"),
    (0x1a1, "CKR_MUTEX_NOT_LOCKED"),
    (0x200, "CKR_FUNCTION_REJECTED"),
    (0x8000_0001, "CKR_VENDOR_DEFINED 0x80000001"),
];

/// What the caller sees of every return value of one function, against the table; and that the token serves again.
fn every_value_at(function: &str, act: Act, call: impl Fn(&Faulty) -> Option<keyward::token::Failure>) {
    let faulty = Faulty::new();
    for (number, name) in VALUES {
        faulty.script(&format!("{function} always return 0x{number:x}"));
        let failure = call(&faulty).unwrap_or_else(|| panic!("{function} {name}: no failure"));
        let (class, outcome) = classify(act, name);
        assert_eq!(
            (failure.class, failure.outcome, failure.function, failure.code.as_str()),
            (class, outcome, function, *name),
            "{function} {name}"
        );
        faulty.script("");
        faulty.signs_again_within(Duration::from_secs(2));
    }
}

#[test]
fn every_value_of_c_sign_is_of_the_tables_class() {
    every_value_at("C_Sign", Act::Sign, |faulty| faulty.sign().err());
}

#[test]
fn every_value_of_c_sign_init_is_of_the_tables_class() {
    every_value_at("C_SignInit", Act::Prepare, |faulty| faulty.sign().err());
}

#[test]
fn every_value_of_c_decrypt_init_is_of_the_tables_class() {
    every_value_at("C_DecryptInit", Act::Prepare, |faulty| {
        faulty.token.decrypt(&faulty.key, Padding::Pkcs1, &[1; 256]).err()
    });
}

#[test]
fn every_value_of_c_decrypt_is_of_the_tables_class() {
    every_value_at("C_Decrypt", Act::Decrypt, |faulty| {
        faulty.token.decrypt(&faulty.key, Padding::Pkcs1, &[1; 256]).err()
    });
}

#[test]
fn every_value_of_c_generate_key_pair_is_of_the_tables_class() {
    every_value_at("C_GenerateKeyPair", Act::Make, |faulty| {
        let request = Generate {
            id: KeyId::random().unwrap(),
            label: "table".to_owned(),
            algorithm: KeyAlgorithm::Rsa(2048),
            sign: true,
            decrypt: true,
        };
        faulty.token.generate(&request).err()
    });
}
