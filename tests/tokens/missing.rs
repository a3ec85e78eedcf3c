//! Keys that a token does not show: missing if every replica says so, and what they were before when one shows them.

use std::fs;
use std::path::PathBuf;

use keyward::error::Reason;

use super::{kill_host, on_tpm, replica, sign, signs_again, with_copy};
use crate::kit::token::faulty::fail_by_script;
use crate::kit::{Instance, events};

/// Stops an instance on a TPM and takes the file of its cluster's key away: where it was, and where it is.
fn key_taken_away(instance: &mut Instance) -> (PathBuf, PathBuf) {
    let key = instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    assert_eq!(instance.stop(), Some(0));
    let file = instance.data().join("token").join(format!("{}.tpmkey", key["id"].as_str().unwrap()));
    let away = instance.path("away");
    fs::rename(&file, &away).unwrap();
    (file, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_its_token_does_not_show_is_missing_and_serves_again_when_it_does() {
    let (mut instance, _tpm, draft) = on_tpm();
    let (file, away) = key_taken_away(&mut instance);
    instance.start();
    let state = || instance.json(&["key", "list", "demo"])[0]["state"].clone();
    assert_eq!(state(), "missing");
    let node = instance.connect("node-1").await;
    assert_eq!(sign(&node, &draft).await.unwrap_err().reason(), Reason::KeyMissing);
    fs::rename(&away, &file).unwrap();
    signs_again(&node, &draft).await;
    assert_eq!(state(), "active");
    let log = instance.log();
    let steps: Vec<_> = events(&log, "key-state").iter().map(|e| (e["from"].clone(), e["to"].clone())).collect();
    assert_eq!(steps, [("active".into(), "missing".into()), ("missing".into(), "active".into())]);
    let why = events(&log, "key-state")[0]["reason"].as_str().unwrap().to_owned();
    assert!(why.contains("TPM2_Load answered no private key of this id"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_a_replica_that_waits_may_have_is_not_known_to_be_missing() {
    let (mut instance, draft) = with_copy("profile = \"own.toml\"\npin = { file = \"pins/copy.user\" }\n");
    let profile = instance.path("own.toml");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles/softhsm.toml"), &profile).unwrap();
    instance.reconfigure("\"own.toml\"", &format!("\"{}\"", profile.display()));
    let (right, pin) = (instance.data().join("pins/main.user"), instance.data().join("pins/copy.user"));
    fs::copy(&right, &pin).unwrap();
    fs::write(&pin, "another-pin").unwrap();
    let script = fail_by_script(&instance);
    instance.start();
    assert_eq!(replica(&instance, "copy")["health"], "waiting");
    let key = instance.json(&["key", "get", "clusters/demo/keys/slc-1"])["id"].as_str().unwrap().to_owned();
    fs::write(&script, format!("C_FindObjectsInit always swap {key} {}", "0".repeat(40))).unwrap();
    // The next one looks for the key.
    kill_host(&instance, "main");
    let node = instance.connect("node-1").await;
    let fault = sign(&node, &draft).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::TokenUnavailable, "{fault:?}");
    assert!(fault.message().contains("and copy cannot be asked"), "{fault:?}");
    assert!(fault.next_step().unwrap().contains("keyward token status"), "{fault:?}");
    assert_eq!(instance.json(&["key", "get", "clusters/demo/keys/slc-1"])["state"], "active");

    fs::copy(&right, &pin).unwrap();
    instance.cli(&["token", "unlatch", "copy"]).good();
    instance.cli(&["token", "login", "copy"]).good();
    sign(&node, &draft).await.unwrap();
    assert!(events(&instance.log(), "key-state").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_looked_for_though_the_row_of_another_was_altered() {
    let (mut instance, _tpm, draft) = on_tpm();
    instance.create_cluster("other", &[]);
    let (file, away) = key_taken_away(&mut instance);
    instance.start();
    assert_eq!(instance.json(&["key", "get", "clusters/demo/keys/slc-1"])["state"], "missing");
    assert_eq!(instance.stop(), Some(0));
    instance.sql(None, "UPDATE object SET version = 9 WHERE kind = 'key' AND name = 'clusters/other/keys/slc-1'");
    instance.start();
    fs::rename(&away, &file).unwrap();
    let node = instance.connect("node-1").await;
    signs_again(&node, &draft).await;
    instance.cli(&["key", "get", "clusters/other/keys/slc-1"]).refused(74, "OBJECT_ALTERED");
}
