//! Openings: no device keeps the operator or another device waiting.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{becomes, kill_host, replica, sign, with_copy};
use crate::kit::token::faulty::{fail_by_script, faulty_profile};
use crate::kit::{Instance, KEYWARD, eventually};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_opens_its_device_for_long_is_not_blamed_on_an_act() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    instance.start();
    let node = instance.connect("node-1").await;
    sign(&node, &draft).await.unwrap();
    // Far longer than a signature may take.
    fs::write(&script, "C_GetSlotList 1 delay 5000").unwrap();
    kill_host(&instance, "main");
    let signing = tokio::spawn(async move { sign(&node, &draft).await });
    let main = becomes(&instance, "main", "failed");
    assert_eq!(main["reason"], "its token host is being started, and has not opened the device yet");
    signing.await.unwrap().unwrap();
    becomes(&instance, "main", "healthy");
}

#[test]
fn a_slow_look_for_many_keys_keeps_the_operator_waiting_for_a_bounded_time() {
    let mut instance = Instance::with_cluster();
    for cluster in ["one", "two", "three", "four"] {
        instance.create_cluster(cluster, &[]);
    }
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    let profile = instance.path("faulty.toml");
    let slow = fs::read_to_string(&profile).unwrap().replace("call_ms_max = 1000", "call_ms_max = 8000");
    fs::write(&profile, slow).unwrap();
    fs::write(&script, "C_FindObjectsInit always log\nC_FindObjectsInit always delay 2500").unwrap();
    instance.launch(Command::new(KEYWARD).arg("serve").arg(instance.data()));
    eventually("the operator is served", || {
        // Before there is a service, the command would hold the directory that the service needs.
        instance.data().join("operator.sock").exists() && instance.cli(&["token", "list"]).code == Some(0)
    });
    let asked = fs::read_to_string(script.with_extension("calls")).unwrap().lines().count();
    assert!(asked < 8, "{asked} looks for at least eight keys");
    assert_eq!(replica(&instance, "main")["health"], "healthy");
}
