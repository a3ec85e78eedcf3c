//! The probe finds of every device at hand exactly what its profile says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyward::token::probe::{permissive, probe};

use crate::kit::KEYWARD;
use crate::kit::token::{Held, TestToken, USER_PIN};

#[test]
fn every_device_does_what_its_profile_says_and_no_more() {
    for name in ["softhsm", "kryoptic", "swtpm"] {
        let test = TestToken::make(name, Held::InProcess);
        let open = test.described_as(permissive(&test.profile), test.binding.clone());
        let token = open.try_open(USER_PIN).unwrap();
        let report = probe(&*token, &test.profile, &[1, 2], Duration::from_millis(100), |_| {}).unwrap();
        assert!(report.as_profile, "{name}: {:#?}", report.matrix);
        assert!(report.curve.iter().all(|point| point.per_second > Some(10.0)), "{name}: {:?}", report.curve);
    }
}

#[test]
fn the_example_starts_three_kinds_of_token_by_itself_and_leaves_a_report_of_each() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = top.join("examples/tokens.sh");
    let ran = Command::new("bash").arg(script).env("KEYWARD", KEYWARD).env_remove("CARGO_TARGET_DIR").output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    for name in ["softhsm", "kryoptic", "swtpm"] {
        let report = fs::read_to_string(top.join("target/tokens").join(format!("{name}.json"))).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["profile"], &report["as_profile"]), (&name.into(), &true.into()), "{report}");
    }
}

#[test]
fn a_profile_that_promises_too_much_is_found_out() {
    let mut test = TestToken::make("softhsm", Held::InProcess);
    test.profile = permissive(&test.profile);
    let report = probe(&*test.open(), &test.profile, &[], Duration::ZERO, |_| {}).unwrap();
    let wrong: Vec<_> = report.matrix.iter().filter(|row| Some(row.profile) != row.device).collect();
    let [row] = wrong.as_slice() else { panic!("{wrong:#?}") };
    assert_eq!(row.capability, "RSA-2048 decrypt OAEP SHA-256");
    let answer = row.answer.as_ref().unwrap();
    assert_eq!((answer.function, answer.code.as_str()), ("C_DecryptInit", "CKR_ARGUMENTS_BAD"));
}
