//! Logins: what is seen of one that is under way, and what a person may do meanwhile.

use std::fs;
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use keyward::error::Reason;

use super::{becomes, kill_host, replica, sign, signs_again, states, with_copy};
use crate::kit::token::faulty::{fail_by_script, faulty_profile};
use crate::kit::token::profile_of;
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

#[test]
fn a_pin_that_was_changed_at_the_device_and_in_its_file_costs_no_wrong_try_when_a_host_is_started_again() {
    let mut instance = Instance::new();
    let profile = profile_of("softhsm");
    keyward::token::set_environment(&profile.environment(&instance.data().join("token")));
    instance.start();
    instance.cluster("demo");
    instance.node("demo", "node-1");
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    fs::write(&script, "C_Login always log").unwrap();
    instance.start();
    let logins = || fs::read_to_string(script.with_extension("calls")).unwrap().lines().count();

    // As a person does it with the maker's tool, from another process than the service's.
    let file = instance.data().join("pins/main.user");
    let device = Pkcs11::new(profile.module.paths.iter().find(|path| path.is_file()).unwrap()).unwrap();
    device.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = device.get_slots_with_initialized_token().unwrap()[0];
    let old = AuthPin::new(fs::read_to_string(&file).unwrap().trim().into());
    let session = device.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&old)).unwrap();
    session.set_pin(&old, &AuthPin::new("a-pin-of-the-next-quarter".into())).unwrap();
    fs::write(&file, "a-pin-of-the-next-quarter\n").unwrap();

    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = instance.connect("node-1").await;
        sign(&node, &draft).await.unwrap();
        kill_host(&instance, "main");
        sign(&node, &draft).await.unwrap();
        assert!(!device.get_token_info(slot).unwrap().user_pin_count_low(), "the device has seen no wrong PIN");
        assert_eq!(logins(), 2);

        // A source that cannot be read costs no try either, and is read when it is back.
        let away = instance.path("away");
        fs::rename(&file, &away).unwrap();
        kill_host(&instance, "main");
        sign(&node, &draft).await.unwrap_err();
        let main = becomes(&instance, "main", "failed");
        assert!(main["reason"].as_str().unwrap().contains("cannot be read"), "{main}");
        assert_eq!(sign(&node, &draft).await.unwrap_err().reason(), Reason::TokenUnavailable);
        fs::rename(&away, &file).unwrap();
        signs_again(&node, &draft).await;
        assert_eq!(logins(), 3);
    });
    let states = states(&instance.log());
    assert!(states.iter().all(|(state, _)| state != "latched" && state != "login-not-made"), "{states:?}");
}
