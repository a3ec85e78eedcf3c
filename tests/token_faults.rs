//! What a token does to us, one fault at a time, by a module that fails by script; and what its caller sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward::error::{Error, Reason};
use keyward::key::{Hash, KeyAlgorithm, KeyId};
use keyward::token::host::HostToken;
use keyward::token::pkcs11::fault::{Act, classify, is_about_an_attribute};
use keyward::token::profile::UserType;
use keyward::token::{Class, Generate, Outcome, Padding, Token};

use crate::kit::token::faulty::{Faulty, make};
use crate::kit::token::{USER_PIN, host_program, pin};

use values::VALUES;

mod attributes;
mod hosts;
mod opening;
mod time;
mod values;

#[test]
fn a_lost_session_is_renewed_without_the_caller_noticing() {
    let faulty = Faulty::new();
    for script in [
        "C_SignInit 1 close-session",
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
fn a_lost_login_is_made_anew_by_the_next_host_without_the_caller_noticing() {
    let faulty = Faulty::new();
    faulty.script("C_Login always log\nC_SignInit 1 logout");
    faulty.calls();
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    assert_eq!((faulty.token.restarts(), faulty.calls()), (1, vec!["C_Login".to_owned()]));
}

#[test]
fn a_login_that_is_lost_while_the_key_is_looked_for_is_no_missing_key() {
    let faulty = Faulty::new();
    faulty.script("C_FindObjectsInit 1 logout");
    assert_eq!(faulty.token.public_key(faulty.key.id).unwrap(), faulty.key.public);
    assert_eq!(faulty.happened(), 1);
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
fn a_signature_of_another_length_is_no_proof_that_none_was_made() {
    let faulty = Faulty::new();
    faulty.script("C_Sign 1 shorten");
    let failure = faulty.sign().unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Mismatch, Outcome::Unknown), "{failure}");
    assert_eq!(failure.to_string(), "C_Sign answered a signature of 255 bytes instead of 256");
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
fn a_host_that_dies_within_a_login_leaves_it_open_whether_the_pin_was_refused_and_no_other_try_is_made() {
    let faulty = Faulty::new();
    faulty.script("C_Login always log\nC_Login always crash\nC_SignInit 1 logout");
    faulty.calls();
    for _ in 0..5 {
        let failure = faulty.sign().unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Pin, Outcome::Refused), "{failure}");
        assert!(failure.code.contains("ended within a login"), "{failure}");
    }
    assert_eq!(faulty.calls(), ["C_Login"]);
    // A person looked at the device: one new try.
    faulty.script("");
    faulty.token.login(Some(pin(USER_PIN))).unwrap();
    assert!(faulty.verifies(&faulty.sign().unwrap()));
}

#[test]
fn a_pin_leaves_the_service_only_within_what_is_done_around_a_login() {
    let faulty = Faulty::new();
    let (allowed, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let token = HostToken::waiting(host_program(), &faulty.test.binding, &faulty.test.profile);
    let token = token.around_logins(Box::new({
        let (allowed, asked) = (Arc::clone(&allowed), Arc::clone(&asked));
        move |fresh, login| {
            asked.fetch_add(1, Ordering::Relaxed);
            if allowed.load(Ordering::Relaxed) {
                login(&*fresh()?)
            } else {
                Err(Error::new(Reason::StoreUnavailable, "no"))
            }
        }
    }));
    let sign = || token.sign(&faulty.key, Hash::Sha256, Faulty::digest().as_ref());
    faulty.script("C_Login always log");
    faulty.calls();
    token.login(Some(pin(USER_PIN))).unwrap();
    sign().unwrap();
    assert_eq!((faulty.calls().len(), asked.load(Ordering::Relaxed)), (1, 1));
    // What cannot be announced is not tried, after a loss as at the start; and it is no refused PIN.
    allowed.store(false, Ordering::Relaxed);
    faulty.script("C_Login always log\nC_SignInit 1 logout");
    assert_eq!(sign().unwrap_err().class, Class::Token);
    assert_eq!((faulty.calls().len(), asked.load(Ordering::Relaxed)), (0, 2));
    allowed.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    while sign().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(faulty.calls(), ["C_Login"]);
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
fn the_user_type_of_the_login_is_the_profiles() {
    let mut faulty = Faulty::new();
    let vendor = UserType::Vendor(0x8000_0001);
    faulty.test.profile.login.user = vendor;
    faulty.script("C_Login always log");
    faulty.calls();
    let error = faulty.test.try_open(USER_PIN).err().unwrap();
    // SoftHSM knows no such user, and says so at the one try.
    assert!(format!("{error:?}").contains("CKR_USER_TYPE_INVALID"), "{error:?}");
    assert_eq!(faulty.calls(), ["C_Login"]);
}

#[test]
fn eight_callers_that_meet_a_lost_login_make_one_new_one() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_Login always log\nC_Login always delay 50\nC_SignInit 1 logout");
    faulty.calls();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(faulty.verifies(&faulty.sign().unwrap())));
        }
    });
    assert_eq!(faulty.calls(), ["C_Login"]);
}

#[test]
fn no_value_at_decryption_that_a_ciphertext_may_bring_about_counts_against_token_or_host() {
    // Session, login or token are lost, or the module itself failed: no ciphertext does that.
    let of_the_device = [
        0x3, 0x9, 0xa, 0x32, 0x60, 0x82, 0x90, 0x91, 0xb0, 0xb3, 0xe0, 0xe1, 0x101, 0x190, 0x1a0, 0x1a1, 0x1b6, 0x1b7,
        0x208,
    ];
    let faulty = Faulty::new();
    let unlisted = [(0x2ff, "one that no version of the standard has"), (0xffff_ffff, "a maker's own")];
    for (value, name) in VALUES.iter().chain(&unlisted).filter(|(value, _)| !of_the_device.contains(value)) {
        faulty.script(&format!("C_Decrypt always return 0x{value:x}\n* always log"));
        let failure = faulty.token.decrypt(&faulty.key, Padding::Pkcs1, &[1; 256]).unwrap_err();
        assert!(matches!(failure.class, Class::Caller | Class::Undecided), "{name}: {failure}");
        assert_eq!(
            (failure.outcome, Error::from(failure).reason()),
            (Outcome::Refused, Reason::TokenRefused),
            "{name}"
        );
    }
    faulty.script("");
    assert!(faulty.verifies(&faulty.sign().unwrap()));
    assert_eq!(faulty.token.restarts(), 0);
}

#[test]
fn two_hundred_lost_sessions_leave_no_descriptor_thread_or_session_behind() {
    let faulty = Faulty::new();
    let pid = faulty.token.pid().unwrap();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    faulty.sign().unwrap();
    let before = (count("task"), own());
    for _ in 0..200 {
        faulty.script("C_SignInit 1 close-session");
        assert!(faulty.verifies(&faulty.sign().unwrap()));
    }
    assert_eq!((count("task"), own()), before);
    assert_eq!(faulty.token.pid(), Some(pid));
}

#[test]
fn every_kind_of_bad_ciphertext_costs_the_same_calls() {
    let faulty = Faulty::new();
    for padding in [Padding::Pkcs1, Padding::Oaep(Hash::Sha1)] {
        for bad in [vec![0u8; 256], vec![0xff; 256], vec![7; 256], vec![7; 255], vec![7; 257], vec![7; 1], vec![]] {
            // A delay of nothing, taken at each call: the markers count them.
            faulty.script("C_Decrypt 99 delay 0\nC_DecryptInit 99 delay 0\nC_FindObjectsInit 99 delay 0");
            let failure = faulty.token.decrypt(&faulty.key, padding, &bad).unwrap_err();
            assert!(matches!(failure.class, Class::Caller | Class::Undecided), "{failure}");
            let calls = [0, 1, 2].map(|line| faulty.happened_in(line));
            assert!(calls[0] == 1 && calls[1] == 1 && calls[2] <= 1, "{} bytes: {calls:?}", bad.len());
        }
    }
}

#[test]
fn the_documented_meaning_of_every_value_is_the_one_in_use() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pkcs11-values.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `CKR_"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), VALUES.len());
    for ((_, value), row) in VALUES.iter().zip(rows) {
        let acts = [Act::Look, Act::Login, Act::Prepare, Act::Sign, Act::Decrypt, Act::Make];
        let cells = acts.map(|act| {
            let (class, outcome) = classify(act, value);
            format!("{class:?}{}", if outcome == Outcome::Unknown { " ?" } else { "" }).to_lowercase()
        });
        assert_eq!(row, [vec![format!("`{value}`")], cells.to_vec()].concat());
    }
}

/// What the caller sees of every return value of one function, against the table; and that the token serves again.
fn every_value_at(function: &str, act: Act, call: impl Fn(&Faulty) -> Option<keyward::token::Failure>) {
    every_value_but(&[], function, act, call);
}

/// The same, without values that have a meaning of their own there.
fn every_value_but(but: &[&str], function: &str, act: Act, call: impl Fn(&Faulty) -> Option<keyward::token::Failure>) {
    let faulty = Faulty::new();
    for (number, name) in VALUES.iter().filter(|(_, name)| !but.contains(name)) {
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

/// Looks for the key, as after every loss.
fn look(faulty: &Faulty) -> Option<keyward::token::Failure> {
    faulty.token.public_key(faulty.key.id).err()
}

#[test]
fn every_value_of_c_find_objects_init_is_of_the_tables_class() {
    every_value_at("C_FindObjectsInit", Act::Look, look);
}

#[test]
fn every_value_of_c_find_objects_is_of_the_tables_class() {
    every_value_at("C_FindObjects", Act::Look, look);
}

#[test]
fn every_value_of_c_get_attribute_value_that_is_not_about_the_attribute_is_of_the_tables_class() {
    // A token that goes away while its key is compared is no token with another key.
    let about: Vec<&str> = VALUES.iter().map(|(_, name)| *name).filter(|name| is_about_an_attribute(name)).collect();
    every_value_but(&[&about[..], &["CKR_BUFFER_TOO_SMALL"]].concat(), "C_GetAttributeValue", Act::Look, look);
}

#[test]
fn every_value_of_c_login_costs_one_try_and_is_told_as_what_it_is() {
    let faulty = Faulty::new();
    for (number, name) in VALUES {
        faulty.script(&format!("C_Login always log\nC_Login always return 0x{number:x}"));
        faulty.calls();
        let opened = faulty.test.try_open(USER_PIN);
        let tries = faulty.calls();
        assert_eq!(tries, ["C_Login"], "{name}");
        let reason = opened.map_or_else(|error| error.reason(), |_| Reason::AlreadyExists);
        let expected = match classify(Act::Login, name) {
            _ if *name == "CKR_USER_ALREADY_LOGGED_IN" => Reason::AlreadyExists,
            (Class::Pin, _) => Reason::PinRefused,
            (_, Outcome::Unknown) => Reason::PinLatched,
            (Class::Unsupported, _) => Reason::TokenUnsupported,
            _ => Reason::TokenUnavailable,
        };
        assert_eq!(reason, expected, "{name}");
    }
}

#[test]
fn every_value_of_c_login_that_leaves_the_pin_open_is_the_last_try_whatever_is_asked_afterwards() {
    // These say that the PIN was not looked at, or that it is not needed.
    let before_the_pin = [
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_SLOT_ID_INVALID",
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
        "CKR_FUNCTION_NOT_SUPPORTED",
        "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
        "CKR_SESSION_READ_ONLY_EXISTS",
        "CKR_ARGUMENTS_BAD",
        "CKR_USER_ALREADY_LOGGED_IN",
    ];
    let faulty = Faulty::new();
    for (number, name) in VALUES.iter().filter(|(_, name)| !before_the_pin.contains(name)) {
        faulty.sign().unwrap();
        faulty.script(&format!("C_Login always log\nC_Login always return 0x{number:x}\nC_SignInit 1 logout"));
        faulty.calls();
        for _ in 0..3 {
            let failure = faulty.sign().unwrap_err();
            assert_eq!((failure.class, failure.outcome), (Class::Pin, Outcome::Refused), "{name}: {failure}");
        }
        assert_eq!(faulty.calls(), ["C_Login"], "{name}");
        assert!(!faulty.token.has_pin());
        faulty.script("");
        faulty.token.login(Some(pin(USER_PIN))).unwrap();
    }
}

#[test]
fn what_a_try_may_have_done_stays_open_whatever_the_next_one_says() {
    let faulty = Faulty::new();
    // The next try must look for the key first, and finds no token; in the same host, and in the next one.
    for first in ["C_Sign 1 return 0x30", "C_Sign 1 crash"] {
        faulty.sign().unwrap();
        faulty.script(&format!("{first}\nC_FindObjectsInit always return 0xe0"));
        let failure = faulty.sign().unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Token, Outcome::Unknown), "{first}: {failure}");
        faulty.script("");
        faulty.signs_again_within(Duration::from_secs(20));
    }
}

#[test]
fn a_module_that_fails_at_every_call_is_started_again_with_waits_between() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_Login always log\nC_SignInit always return 0x190");
    faulty.calls();
    let (begun, mut logins) = (Instant::now(), 0);
    while logins < 6 {
        assert!(faulty.sign().is_err());
        logins += faulty.calls().len();
        assert!(begun.elapsed() < Duration::from_secs(60), "{logins} logins");
        std::thread::sleep(Duration::from_millis(5));
    }
    // 50, 100, 200, 400, 800 and 1000 ms between them, each at least three quarters of that: more on a slow machine.
    let waits: u64 = [50, 100, 200, 400, 800, 1000, 1000].into_iter().take(logins - 1).sum();
    let least = Duration::from_millis(waits * 3 / 4);
    assert!(begun.elapsed() >= least, "{logins} logins in {:?}", begun.elapsed());
    faulty.script("");
    faulty.signs_again_within(Duration::from_secs(20));
}

#[test]
fn what_the_device_answered_is_told_when_no_host_can_open_the_token() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_Sign 1 crash\nC_OpenSession always return 0x31");
    for _ in 0..2 {
        let failure = faulty.sign().unwrap_err();
        assert_eq!((failure.function, failure.code.as_str()), ("C_OpenSession", "CKR_DEVICE_MEMORY"));
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
