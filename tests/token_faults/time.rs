//! What time a caller and a profile give, and what becomes of whoever takes longer.

use std::time::{Duration, Instant};

use keyward::key::{Hash, KeyAlgorithm, KeyId};
use keyward::token::{Allowance, Class, Generate, Outcome, Token};

use crate::kit::token::USER_PIN;
use crate::kit::token::faulty::Faulty;

#[test]
fn a_generation_has_the_time_that_its_profile_gives_and_no_more() {
    let mut faulty = Faulty::new();
    faulty.test.profile.sessions.call_ms_max = 200;
    faulty.test.profile.sessions.generate_ms_max = 1500;
    let token = faulty.test.host(USER_PIN).unwrap();
    let make = || {
        let id = KeyId::random().unwrap();
        let (label, algorithm) = ("time".to_owned(), KeyAlgorithm::P256);
        token.generate(&Generate { id, label, algorithm, sign: true, decrypt: false })
    };
    faulty.script("C_GenerateKeyPair 1 delay 400");
    make().unwrap();
    faulty.script("C_GenerateKeyPair 1 hang");
    let failure = make().unwrap_err();
    assert_eq!((failure.class, failure.outcome), (Class::Module, Outcome::Unknown), "{failure}");
    assert!(failure.code.contains("no answer within 1500 ms"), "{failure}");
}

#[test]
fn a_caller_that_gives_up_ends_no_host_that_has_time_left() {
    let faulty = Faulty::new();
    faulty.script("C_Sign 1 delay 300");
    let until = Instant::now() + Duration::from_millis(100);
    let asked = faulty.token.allowing(Allowance { until, again: true, given: &|_| {} }).unwrap();
    assert!(faulty.verifies(&asked.sign(&faulty.key, Hash::Sha256, Faulty::digest().as_ref()).unwrap()));
    assert_eq!((faulty.happened(), faulty.token.restarts()), (1, 0));
}

#[test]
fn nobody_waits_longer_than_his_time_for_a_host_that_another_caller_has_started() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_SignInit 1 crash\nC_OpenSession 1 delay 3000");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| faulty.sign().unwrap());
        crate::kit::eventually("its host is gone", || faulty.token.restarts() == 1 && faulty.token.pid().is_none());
        let until = Instant::now() + Duration::from_millis(300);
        let asked = faulty.token.allowing(Allowance { until, again: true, given: &|_| {} }).unwrap();
        let failure = asked.sign(&faulty.key, Hash::Sha256, Faulty::digest().as_ref()).unwrap_err();
        assert_eq!((failure.class, failure.outcome), (Class::Token, Outcome::Refused), "{failure}");
        assert!(faulty.verifies(&first.join().unwrap()), "who has time gets his signature");
    });
}

#[test]
fn an_act_is_not_begun_by_a_host_that_was_started_too_late_for_its_caller() {
    let faulty = Faulty::new();
    faulty.sign().unwrap();
    faulty.script("C_Sign always log\nC_SignInit 1 crash\nC_OpenSession 1 delay 1000");
    faulty.calls();
    let until = Instant::now() + Duration::from_millis(500);
    let asked = faulty.token.allowing(Allowance { until, again: true, given: &|_| {} }).unwrap();
    let failure = asked.sign(&faulty.key, Hash::Sha256, Faulty::digest().as_ref()).unwrap_err();
    // What the first host may have done stays open.
    assert_eq!(failure.outcome, Outcome::Unknown, "{failure}");
    assert_eq!(faulty.calls().len(), 0);
    faulty.signs_again_within(Duration::from_secs(20));
}
