//! Logins: what is seen of one that is under way, and what a person may do meanwhile.

use std::fs;
use std::process::Command;

use super::{becomes, replica, sign, states, with_copy};
use crate::kit::token::faulty::{fail_by_script, faulty_profile};
use crate::kit::{Instance, KEYWARD, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_is_shown_as_what_it_is_and_cannot_be_unlatched() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = instance.path("script");
    let profile = faulty_profile(&instance, &script);
    instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", profile.display()));
    instance.start();
    let node = instance.connect("node-1").await;
    sign(&node, &draft).await.unwrap();
    // The login is lost, and the next one takes its time.
    fs::write(&script, "C_Login 1 delay 6000\nC_SignInit 1 logout").unwrap();
    let signing = tokio::spawn(async move { sign(&node, &draft).await });
    eventually("a login is under way", || replica(&instance, "main")["login_under_way"] == true);
    assert_eq!(replica(&instance, "main")["latched"], "");
    assert!(instance.cli(&["token", "status", "main"]).good().contains("PIN          a login is under way"));
    let said = instance.cli(&["token", "unlatch", "main"]).refused(69, "TOKEN_BUSY");
    assert!(said.contains("is under way"), "{said}");
    signing.await.unwrap().unwrap();
    let main = becomes(&instance, "main", "healthy");
    assert!(main["login_under_way"] == false && main["latched"] == "", "{main}");
    assert!(states(&instance.log()).iter().all(|(state, _)| state != "unlatched"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_to_a_token_tries_each_replica_and_tells_of_each_that_refuses() {
    let (mut instance, _) = with_copy("");
    let script = instance.path("script");
    let profile = faulty_profile(&instance, &script);
    instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", profile.display()));
    fs::write(&script, "C_Login always log\nC_Login always return 0xa0").unwrap();
    instance.start_waiting();
    let said = instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    for words in ["token main: the token refused", "replica copy: its PIN", "token unlatch main", "token unlatch copy"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    fs::write(&script, "C_Login always log").unwrap();
    instance.cli(&["token", "unlatch", "copy"]).good();
    let said = instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    assert!(said.contains("token main: the token refused") && !said.contains("copy"), "{said}");
    becomes(&instance, "copy", "healthy");
    assert_eq!(replica(&instance, "main")["health"], "waiting");
    assert_eq!(fs::read_to_string(script.with_extension("calls")).unwrap().lines().count(), 3, "no PIN twice");
}

#[test]
fn a_person_who_interrupts_a_login_leaves_no_replica_waiting() {
    let mut instance = Instance::with_cluster();
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    fs::write(&script, "C_Login always return 0xa0").unwrap();
    instance.start_waiting();
    instance.cli(&["token", "unlatch", "main"]).good();
    fs::write(&script, "C_Login always log\nC_Login always delay 3000").unwrap();
    let mut person =
        Command::new(KEYWARD).args(["token", "login", "main", "--data"]).arg(instance.data()).spawn().unwrap();
    eventually("a login is under way", || replica(&instance, "main")["login_under_way"] == true);
    person.kill().unwrap();
    person.wait().unwrap();
    // Another person waits for that login, and makes none.
    instance.cli(&["token", "login", "main"]).good();
    becomes(&instance, "main", "healthy");
    assert_eq!(fs::read_to_string(script.with_extension("calls")).unwrap().lines().count(), 1, "one login");
}
