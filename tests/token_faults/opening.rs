//! Every return value of the functions that find, open and make a token.

use std::fs;

use keyward::error::{Error, Reason};
use keyward::token::pkcs11::fault::{Act, classify, says_no_token};
use keyward::token::profile::Profile;
use keyward::token::{self, Class, Failure, Generate, Token};

use crate::kit::token::faulty::Faulty;
use crate::kit::token::{USER_PIN, built, directory, pin, profile_of};

use super::values::VALUES;
use super::{every_value_at, every_value_but, look};

/// What a person is told of a value in an act.
fn told(act: Act, value: &str) -> Reason {
    let (class, outcome) = classify(act, value);
    Error::from(Failure { class, outcome, function: "", code: value.to_owned() }).reason()
}

/// Opens the token while a function answers this; the PIN is not tried.
fn opens_to(function: &str, expected: impl Fn(&str) -> Reason) {
    let faulty = Faulty::new();
    for (number, name) in VALUES {
        faulty.script(&format!("C_Login always log\n{function} always return 0x{number:x}"));
        let error = faulty.test.try_open(USER_PIN).err().unwrap();
        assert_eq!(error.reason(), expected(name), "{function} {name}: {error:?}");
        assert!(error.private_detail().is_none_or(|detail| detail.contains(name)), "{error:?}");
    }
    assert_eq!(faulty.calls(), [""; 0], "no PIN is tried");
    faulty.script("");
    faulty.test.open();
}

#[test]
fn every_value_of_c_get_slot_list_is_told_as_what_it_is_and_costs_no_try() {
    opens_to("C_GetSlotList", |name| told(Act::Look, name));
}

#[test]
fn every_value_of_c_initialize_is_told_as_what_it_is_and_never_as_a_missing_module() {
    let faulty = Faulty::new();
    // A module that some other part of the process has initialised is ready.
    for (number, name) in VALUES.iter().filter(|(_, name)| *name != "CKR_CRYPTOKI_ALREADY_INITIALIZED") {
        faulty.script(&format!("C_Login always log\nC_Initialize always return 0x{number:x}"));
        let error = faulty.test.try_open(USER_PIN).err().unwrap();
        assert_eq!(error.reason(), told(Act::Look, name), "{name}: {error:?}");
        assert!(error.private_detail().is_some_and(|detail| detail.contains(name)), "{error:?}");
    }
    assert_eq!(faulty.calls(), [""; 0], "no PIN is tried");
}

#[test]
fn every_value_of_c_get_token_info_is_told_as_what_it_is_and_costs_no_try() {
    let missing = |name: &str| if says_no_token(name) { Reason::TokenMissing } else { told(Act::Look, name) };
    opens_to("C_GetTokenInfo", missing);
}

#[test]
fn every_value_of_c_open_session_at_the_opening_is_told_as_what_it_is_and_costs_no_try() {
    opens_to("C_OpenSession", |name| told(Act::Look, name));
}

#[test]
fn every_value_of_c_open_session_for_a_generation_is_of_the_tables_class() {
    every_value_at("C_OpenSession", Act::Look, |faulty| {
        let id = keyward::key::KeyId::random().unwrap();
        let algorithm = keyward::key::KeyAlgorithm::P256;
        faulty.token.generate(&Generate { id, label: "table".to_owned(), algorithm, sign: true, decrypt: false }).err()
    });
}

#[test]
fn every_value_of_c_open_session_for_a_working_session_is_of_the_tables_class_after_one_more_try() {
    let faulty = Faulty::new();
    for (number, name) in VALUES {
        let (class, outcome) = classify(Act::Look, name);
        // The host of a module that fails is another one then, and cannot open the token either.
        let expected = if class == Class::Module { Class::Token } else { class };
        faulty.script(&format!("C_SignInit 1 return 0xb3\nC_OpenSession always return 0x{number:x}"));
        let failure = faulty.sign().unwrap_err();
        assert_eq!((failure.class, failure.outcome), (expected, outcome), "{name}: {failure}");
        faulty.script("");
        if class == Class::Pin {
            // Nonsense from this function; whoever holds the token leaves it alone all the same.
            faulty.token.login(Some(pin(USER_PIN))).unwrap();
        }
        faulty.signs_again_within(std::time::Duration::from_secs(20));
    }
}

#[test]
fn a_token_that_says_it_has_no_more_sessions_is_used_with_those_that_it_gave() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_OpenSession always return 0xb1\nC_SignInit always delay 20");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(faulty.verifies(&faulty.sign().unwrap())));
        }
    });
}

#[test]
fn every_value_of_c_get_token_info_for_a_description_is_of_the_tables_class() {
    // A module that fails is started anew; what its next host answers is above.
    let module = |name: &&str| classify(Act::Look, name).0 == Class::Module;
    let but: Vec<&str> = VALUES.iter().map(|(_, name)| *name).filter(module).collect();
    every_value_but(&but, "C_GetTokenInfo", Act::Look, |faulty| faulty.token.describe().err());
}

#[test]
fn every_value_of_c_get_session_info_means_a_lost_login_which_the_next_host_makes_anew() {
    let faulty = Faulty::new();
    for (restarts, (number, name)) in (1..).zip(VALUES) {
        faulty.script(&format!(
            "C_Login always log\nC_SignInit 1 return 0xb3\nC_GetSessionInfo always return 0x{number:x}"
        ));
        assert!(faulty.verifies(&faulty.sign().unwrap()), "{name}");
        assert_eq!((faulty.token.restarts(), faulty.calls()), (restarts, vec!["C_Login".to_owned()]), "{name}");
    }
}

#[test]
fn every_value_of_c_find_objects_final_is_of_no_account_to_the_caller() {
    let faulty = Faulty::new();
    for (number, name) in VALUES {
        faulty.script(&format!("C_FindObjectsFinal always return 0x{number:x}"));
        for _ in 0..3 {
            assert!(look(&faulty).is_none(), "{name}");
        }
    }
    assert_eq!(faulty.token.restarts(), 0);
}

/// A profile of SoftHSM behind the faulty module, in this process, and a way to say what the module does.
fn faulty_in_process() -> (Profile, impl Fn(&str)) {
    let mut profile = profile_of("softhsm");
    let script = directory(&profile).join("script");
    let real = profile.module.paths.iter().find(|path| path.is_file()).unwrap().display().to_string();
    profile.module.paths = vec![built("faulty", "libfaulty_pkcs11.so")];
    let environment = [("FAULTY_MODULE", real), ("FAULTY_SCRIPT", script.display().to_string())];
    token::set_environment(&environment.map(|(name, value)| (name.to_owned(), value)));
    (profile, move |text| fs::write(&script, text).unwrap())
}

/// Makes tokens while a function answers each value.
fn makes_to(function: &str) {
    let (profile, script) = faulty_in_process();
    let directory = directory(&profile);
    let make = |label: &str| token::initialise(&profile, &directory, label, &pin("so-pin-of-a-test"), &pin(USER_PIN));
    for (number, name) in VALUES {
        script(&format!("{function} always return 0x{number:x}"));
        let error = make(&format!("{number:x}")).err().unwrap();
        assert_eq!(error.reason(), told(Act::Make, name), "{function} {name}: {error:?}");
        assert!(format!("{error:?}").contains(function), "{error:?}");
    }
    script("");
    make("whole").unwrap();
}

#[test]
fn every_value_of_c_init_token_is_told_as_what_it_is() {
    makes_to("C_InitToken");
}

#[test]
fn every_value_of_c_init_pin_is_told_as_what_it_is() {
    makes_to("C_InitPIN");
}
