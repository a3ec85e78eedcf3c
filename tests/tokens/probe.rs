//! Tokens that are tried out: by the running service, and by a person while no service runs.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward::error::Reason;
use keyward::token::Class;
use keyward::token::probe::{permissive, probe};
use serde_json::{Value, json};

use super::{becomes, replica, sign};
use crate::kit::token::faulty::{Faulty, fail_by_script};
use crate::kit::{Instance, KEYWARD, Ran, events, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_no_longer_decrypts_is_found_out_by_a_probe_and_not_by_what_others_sent_to_it() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    instance.start();
    let node = instance.connect("node-1").await;
    // A new key is proved by decrypting; the answer is a maker's own, and may mean the ciphertext.
    fs::write(&script, "C_Decrypt 1 return 0x80000001\nC_Decrypt always log").unwrap();
    let create = |name: &str| {
        let (url, request) = (format!("https://{name}.example.test"), instance.path(name));
        let args = ["cluster", "create", name, "--url", &url, "--offline", "--request", request.to_str().unwrap()];
        instance.cli(&args).refused(69, "TOKEN_REFUSED")
    };
    create("one");
    eventually("a probe decides", || script.with_extension("calls").exists());
    assert_eq!(replica(&instance, "main")["health"], "healthy");

    fs::write(&script, "C_Decrypt always return 0x80000001").unwrap();
    create("two");
    let main = becomes(&instance, "main", "failed");
    assert!(main["reason"].as_str().unwrap().contains("C_Decrypt answered CKR_VENDOR_DEFINED 0x80000001"), "{main}");
    // It signs on, since nobody else is there, and that makes it no better.
    sign(&node, &draft).await.unwrap();
    assert_eq!(replica(&instance, "main")["health"], "failed");
    fs::write(&script, "").unwrap();
    becomes(&instance, "main", "healthy");
    assert_eq!(replica(&instance, "main")["host_restarts"], 0);
}

#[test]
fn a_configured_token_is_probed_with_one_record_while_no_service_runs() {
    let mut instance = Instance::new();
    instance.start();
    let said = instance.cli(&["token", "probe", "main"]).refused(78, "DATA_DIRECTORY_IN_USE");
    assert!(said.contains("stop the service first"), "{said}");
    assert_eq!(instance.stop(), Some(0));
    let report = instance.json(&["token", "probe", "main", "--sessions", "1"]);
    assert_eq!(report["as_profile"], true, "{report}");
    instance.cli(&["token", "probe", "other"]).refused(65, "NOT_FOUND");
    instance.start();
    let log = instance.log();
    let probes: Vec<_> = events(&log, "maintenance").into_iter().filter(|e| e["purpose"] == "probe").collect();
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!(probes[0]["keys"], json!(["tokens/main"]));
    let runs = events(&log, "maintenance").into_iter().filter(|event| event["purpose"] == "health").count();
    assert_eq!(runs, 2, "one for each run of the service");
    let keys = events(&log, "intent").into_iter().filter(|event| event["act"]["role"] == "probe").count();
    assert_eq!(keys, 1, "the key that tokens are tried out with is made once");
}

fn row<'a>(report: &'a Value, capability: &str) -> &'a Value {
    report["matrix"].as_array().unwrap().iter().find(|row| row["capability"] == capability).unwrap()
}

#[test]
fn a_probe_goes_on_when_its_module_must_be_started_anew_and_says_so() {
    let instance = Instance::new();
    let script = fail_by_script(&instance);
    // A login that is lost, a crash, and one in a generation, which nobody repeats but the probe.
    for (fault, first) in [
        ("C_SignInit 1 logout", Value::Null),
        ("C_Decrypt 1 crash", Value::Null),
        ("C_GenerateKeyPair 1 crash", "token host".into()),
    ] {
        fs::write(&script, fault).unwrap();
        let report = instance.json(&["token", "probe", "main", "--sessions", "1"]);
        assert_eq!((&report["as_profile"], &report["host_restarts"]), (&true.into(), &1.into()), "{fault}: {report}");
        assert_eq!(report["lost"], Value::Null, "{report}");
        assert_eq!(row(&report, "generate RSA-1024")["first"]["function"], first, "{report}");
        for marker in fs::read_dir(instance.directory.path()).unwrap().map(|entry| entry.unwrap()) {
            if marker.file_name().to_str().unwrap().starts_with("script.line") {
                fs::remove_file(marker.path()).unwrap();
            }
        }
    }
    fs::write(&script, "C_GenerateKeyPair 1 crash").unwrap();
    let said = instance.cli(&["token", "probe", "main", "--sessions", "1"]).good();
    assert!(said.contains("at the second try") && said.contains("restarts: 1;"), "{said}");
    // Every login was recorded, and none is left open.
    let status = replica(&instance, "main");
    assert_eq!(status["latched"], "", "{status}");
}

#[test]
fn what_a_module_always_fails_of_is_no_capability_and_the_rest_is_tried() {
    let instance = Instance::new();
    let script = fail_by_script(&instance);
    fs::write(&script, "C_DecryptInit always crash").unwrap();
    let Ran { code, stdout, .. } = instance.cli(&["token", "probe", "main", "--sessions", "1", "--output", "json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["as_profile"], &report["lost"]), (Some(1), &false.into(), &Value::Null), "{report}");
    let worked = |capability: &str| row(&report, capability)["device"].clone();
    assert_eq!(worked("RSA-2048 decrypt PKCS#1 v1.5"), false, "{report}");
    assert_eq!(worked("RSA-2048 SHA-256"), true, "{report}");
    assert!(report["curve"][0]["per_second"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_probe_whose_pin_is_refused_in_between_ends_there_and_says_nothing_of_the_rest() {
    let faulty = Faulty::new();
    faulty.script("C_Login always log\nC_Login always return 0xa0\nC_SignInit 1 logout");
    faulty.calls();
    let report =
        probe(&*faulty.token, &permissive(&faulty.test.profile), &[1], Duration::from_millis(50), |_| {}).unwrap();
    assert_eq!(report.lost.as_ref().map(|failure| failure.class), Some(Class::Pin), "{report:#?}");
    let found: Vec<_> = report.matrix.iter().map(|row| row.device).collect();
    assert!(found[0] == Some(true) && found[1..].iter().all(Option::is_none), "{found:?}");
    assert!(!report.as_profile && report.curve.is_empty());
    assert_eq!(faulty.calls(), ["C_Login"]);
}

#[test]
fn no_service_starts_on_a_token_that_is_being_probed() {
    let instance = Instance::new();
    let script = fail_by_script(&instance);
    fs::write(&script, "C_GenerateKeyPair always log\nC_GenerateKeyPair always delay 1500").unwrap();
    let (data, mut probing) = (instance.data(), Command::new(KEYWARD));
    probing.args(["token", "probe", "main", "--sessions", "1", "--data", data.to_str().unwrap()]);
    let child = probing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the probe makes its first key", || script.with_extension("calls").exists());
    instance.serve_fails().refused(78, Reason::DataDirectoryInUse.code());
    Ran::from(child.wait_with_output().unwrap()).good();
}

#[test]
fn what_a_device_answered_at_its_opening_is_told_by_function_and_value() {
    let mut instance = Instance::new();
    let script = fail_by_script(&instance);
    fs::write(&script, "C_OpenSession always return 0x31").unwrap();
    instance.start_waiting();
    let answer = json!({"function": "C_OpenSession", "value": "CKR_DEVICE_MEMORY"});
    // At the start, and by every try after it.
    eventually("the device is tried again", || {
        let main = replica(&instance, "main");
        assert_eq!((&main["health"], &main["answer"]), (&"failed".into(), &answer), "{main}");
        main["last_probe_seconds"].is_u64()
    });
    let main = replica(&instance, "main");
    assert_eq!(main["answer"], answer, "{main}");
    assert!(main["reason"].as_str().unwrap().contains("C_OpenSession answered CKR_DEVICE_MEMORY"), "{main}");
    fs::write(&script, "").unwrap();
    assert_eq!(becomes(&instance, "main", "healthy")["answer"], Value::Null);
    assert_eq!(instance.stop(), Some(0));

    fs::write(&script, "C_Login always return 0xa4").unwrap();
    let ran = instance.cli(&["token", "probe", "main", "--output", "json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["answer"], json!({"function": "C_Login", "value": "CKR_PIN_LOCKED"}), "{report}");
    let said = ran.refused(69, "PIN_REFUSED");
    assert!(said.contains("error: token main: the token refused the PIN ["), "{said}");
    assert!(said.contains("keyward token unlatch main"), "{said}");
    let said = instance.cli(&["token", "probe", "main"]).refused(69, "PIN_LATCHED");
    assert!(said.contains("keyward token unlatch main"), "{said}");
}

#[test]
fn a_token_that_lacks_what_every_one_must_do_is_not_excused_by_a_profile() {
    let instance = Instance::new();
    let script = fail_by_script(&instance);
    let probe = || instance.cli(&["token", "probe", "main", "--sessions", "1"]);
    let said = probe().good();
    assert!(
        said.ends_with("\nas its profile says\n") && said.contains("as expected: C_DecryptInit answered"),
        "{said}"
    );
    assert!(said.contains("left     4 keys, labelled \"keyward probe\", which stay in the token"), "{said}");
    assert!(!said.contains("DIFFERS") && !said.contains("MISSING"), "{said}");
    fs::write(&script, "C_Sign always corrupt").unwrap();
    let Ran { code, stdout, .. } = probe();
    assert_eq!(code, Some(1));
    assert!(stdout.contains("MISSING: probe answered a signature that does not verify"), "{stdout}");
    assert!(stdout.ends_with("give it no key\n"), "{stdout}");
    fs::write(&script, "C_GenerateKeyPair always return 0x70").unwrap();
    let Ran { code, stdout, .. } = probe();
    assert_eq!(code, Some(1));
    assert!(stdout.contains("left     0 keys") && stdout.contains("rate     not measured"), "{stdout}");
    assert!(stdout.contains("DIFFERS: C_GenerateKeyPair answered CKR_MECHANISM_INVALID"), "{stdout}");
}
