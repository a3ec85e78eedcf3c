//! Openings: no device keeps the operator or another device waiting.

use std::fs;
use std::path::Path;

use super::with_copy;
use crate::kit::token::faulty::{fail_by_script, faulty_profile};

#[test]
fn a_device_that_takes_its_time_to_be_found_keeps_no_other_one_from_being_logged_in() {
    let (mut instance, _) = with_copy("profile = \"copy.toml\"\n");
    let copy = instance.path("copy");
    let profile = instance.path("copy.toml");
    fs::rename(faulty_profile(&instance, &copy), &profile).unwrap();
    instance.reconfigure("\"copy.toml\"", &format!("\"{}\"", profile.display()));
    let main = fail_by_script(&instance);
    fs::write(&copy, "C_Login always log").unwrap();
    fs::write(&main, "C_Login always log\nC_GetSlotList 1 delay 4000").unwrap();
    instance.start();
    let logged_in = |script: &Path| fs::metadata(script.with_extension("calls")).unwrap().modified().unwrap();
    assert!(logged_in(&copy) < logged_in(&main), "one after the other");
}
