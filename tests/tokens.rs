//! Tokens in the service: replicas, a TPM, keys that go missing, and what a person at the command line sees and does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::error::{Error, Reason};
use keyward::grpc::client::{Connection, failed};
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::kit::token::faulty::{fail_by_script, faulty_profile};
use crate::kit::token::{Swtpm, copy_files};
use crate::kit::{Draft, Instance, KEYWARD, ends, events, eventually, keyward};
use crate::token_load::median;

mod login;
mod missing;
mod opening;
mod probe;
mod tpm;

/// Longest wait for a token to be back: the service has two seconds, and this machine is shared.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn sign(node: &Connection, draft: &Draft) -> Result<(), Error> {
    node.licensing().sign_document(draft.request("clusters/demo")).await.map(|_| ()).map_err(failed)
}

/// Signs until it works.
async fn signs_again(node: &Connection, draft: &Draft) {
    let begun = Instant::now();
    while let Err(fault) = sign(node, draft).await {
        assert!(begun.elapsed() < PATIENCE, "not again: {fault:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How the replicas stand, by their names.
pub(crate) fn replica(instance: &Instance, name: &str) -> Value {
    let all = instance.json(&["token", "status"]);
    let found = all.as_array().unwrap().iter().find(|replica| replica["replica"] == name);
    found.unwrap_or_else(|| panic!("no replica {name} in {all}")).clone()
}

/// Kills the token host that a replica has now, if it has one.
pub(crate) fn kill_host(instance: &Instance, name: &str) {
    let host = replica(instance, name)["host_pid"].as_u64().filter(|pid| *pid > 0);
    if let Some(host) = host {
        // It may have ended by itself meanwhile.
        let _ = Command::new("kill").args(["-KILL", &host.to_string()]).status().unwrap();
    }
}

/// Waits until a replica stands so.
#[track_caller]
pub(crate) fn becomes(instance: &Instance, name: &str, health: &str) -> Value {
    let begun = Instant::now();
    loop {
        let now = replica(instance, name);
        if now["health"] == health {
            return now;
        }
        assert!(begun.elapsed() < PATIENCE, "it is not {health}: {now}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn health(instance: &Instance, service: &str) -> ServingStatus {
    let socket = instance.data().join("operator.sock");
    let channel = Connection::operator(&socket).await.unwrap().channel();
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

async fn health_becomes(instance: &Instance, service: &str, status: ServingStatus) {
    let begun = Instant::now();
    while health(instance, service).await != status {
        assert!(begun.elapsed() < PATIENCE, "the health of {service:?} is not {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn states(log: &[Value]) -> Vec<(String, String)> {
    let word = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    events(log, "token-state").into_iter().map(|event| (word(event, "state"), word(event, "token"))).collect()
}

/// An instance with an enrolled cluster whose token has a replica `copy`: SoftHSM imitates cloning by a copied directory.
/// Stopped.
pub(crate) fn with_copy(more: &str) -> (Instance, Draft) {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    copy_files(&instance.data().join("token"), &instance.data().join("token-copy"));
    instance.configure(&format!("\n[[token.replica]]\nname = \"copy\"\ndirectory = \"token-copy\"\n{more}"));
    (instance, draft)
}

/// The same with a copy that fails by the script of this path, which says this. Started.
pub(crate) fn with_failing_copy(says: &str) -> (Instance, Draft, PathBuf) {
    let (mut instance, draft) = with_copy("profile = \"faulty.toml\"\n");
    let script = instance.path("script");
    let profile = faulty_profile(&instance, &script);
    instance.reconfigure("faulty.toml", profile.to_str().unwrap());
    fs::write(&script, says).unwrap();
    instance.start();
    (instance, draft, script)
}

/// An instance on a TPM of its own, with a cluster, started.
pub(crate) fn on_tpm() -> (Instance, Swtpm, Draft) {
    on_tpm_that(Swtpm::start)
}

fn on_tpm_that(starts: fn(&Path) -> Swtpm) -> (Instance, Swtpm, Draft) {
    let mut instance = Instance::nothing();
    let tpm = starts(instance.directory.path());
    let tcti = format!("file:{}", instance.path("tcti").display());
    instance.init(&["--profile", "swtpm", "--tcti", &tcti]).good();
    instance.start();
    instance.cluster("demo");
    instance.node("demo", "node-1");
    let draft = instance.draft("demo");
    (instance, tpm, draft)
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_go_on_while_the_host_of_one_replica_is_killed_again_and_again() {
    let (mut instance, draft) = with_copy("");
    instance.cli(&["config", "check"]).good();
    instance.start();
    let node = instance.connect("node-1").await;
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (node, draft, done) = (node.clone(), draft.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut signed = 0;
                while !done.load(Ordering::Relaxed) {
                    sign(&node, &draft).await.unwrap();
                    signed += 1;
                }
                signed
            })
        })
        .collect();
    let begun = Instant::now();
    for killed in 1..4 {
        // None while one is started.
        eventually("a host holds it", || becomes(&instance, "copy", "healthy")["host_pid"] != 0);
        let host = replica(&instance, "copy")["host_pid"].as_u64().filter(|pid| *pid > 0).unwrap();
        assert!(Command::new("kill").args(["-KILL", &host.to_string()]).status().unwrap().success());
        while replica(&instance, "copy")["host_restarts"] != killed {
            assert!(begun.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    done.store(true, Ordering::Relaxed);
    let mut signed = 0;
    for caller in callers {
        signed += caller.await.unwrap();
    }
    assert!(signed > 10, "{signed} signatures");
    becomes(&instance, "copy", "healthy");
    assert_eq!(replica(&instance, "main")["host_restarts"], 0);
    instance.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_signs_wrongly_is_quarantined_alone_and_the_other_answers() {
    let (mut instance, draft, script) = with_failing_copy("C_Sign always corrupt");
    let node = instance.connect("node-1").await;
    let begun = Instant::now();
    while replica(&instance, "copy")["health"] != "quarantined" {
        let (one, two) = tokio::join!(sign(&node, &draft), sign(&node, &draft));
        one.and(two).unwrap();
        assert!(begun.elapsed() < PATIENCE);
    }
    sign(&node, &draft).await.unwrap();
    assert_eq!(replica(&instance, "main")["health"], "healthy");

    // Across a restart too. The devices have one serial: the name tells them apart.
    assert_eq!(instance.stop(), Some(0));
    assert!(!replica(&instance, "copy")["quarantined"].as_str().unwrap().is_empty());
    assert_eq!(replica(&instance, "main")["quarantined"], "");
    instance.start();
    assert_eq!(replica(&instance, "copy")["health"], "quarantined");
    fs::write(&script, "").unwrap();
    let said = instance.cli(&["token", "release", "copy"]).good();
    assert!(said.contains("token copy is released, as you are an operator"), "{said}");
    becomes(&instance, "copy", "healthy");
    let held: Vec<_> = states(&instance.log()).into_iter().filter(|(state, _)| !state.starts_with("log")).collect();
    let names: Vec<_> = held.iter().map(|(state, device)| (state.as_str(), device.ends_with(" as copy"))).collect();
    assert_eq!(names, [("quarantined", true), ("released", true)], "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_every_replica_makes_wrongly_is_recorded_with_the_names_of_all() {
    let (mut instance, draft) = with_copy("");
    let script = fail_by_script(&instance);
    instance.start();
    let node = instance.connect("node-1").await;
    sign(&node, &draft).await.unwrap();
    fs::write(&script, "C_Sign always corrupt").unwrap();
    assert_eq!(sign(&node, &draft).await.unwrap_err().reason(), Reason::TokenMismatch);
    fs::write(&script, "").unwrap();
    assert_eq!(
        (replica(&instance, "main")["health"].clone(), replica(&instance, "copy")["health"].clone()),
        ("quarantined".into(), "quarantined".into())
    );
    for name in ["main", "copy"] {
        instance.cli(&["token", "release", name]).good();
        becomes(&instance, name, "healthy");
    }
    let log = instance.log();
    let outcomes = events(&log, "outcome");
    let unknown = outcomes.iter().find(|event| event["result"]["is"] == "unknown").unwrap();
    let message = unknown["result"]["message"].as_str().unwrap();
    assert!(message.contains("main") && message.contains("copy"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_of_one_replica_is_not_one_of_the_other_and_both_are_shown() {
    let (instance, draft, script) = with_failing_copy("C_Login always log\nC_Login always return 0xa0");
    sign(&instance.connect("node-1").await, &draft).await.unwrap();
    let (main, copy) = (replica(&instance, "main"), replica(&instance, "copy"));
    assert_eq!((&main["health"], &main["latched"]), (&"healthy".into(), &"".into()), "{main}");
    assert_eq!(copy["health"], "waiting", "{copy}");
    assert!(copy["latched"].as_str().unwrap().contains("refused the PIN"), "{copy}");
    let listed = instance.cli(&["token", "list"]).good();
    let lines: Vec<&str> = listed.lines().filter(|line| line.contains("main")).collect();
    assert!(lines.len() == 2 && !lines[0].contains("latched") && lines[1].contains("latched"), "{listed}");
    // The token's name means all its replicas: what serves is left alone, and what is latched stays so.
    instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    fs::write(&script, "C_Login always log").unwrap();
    instance.cli(&["token", "unlatch", "copy"]).good();
    instance.cli(&["token", "login", "copy"]).good();
    becomes(&instance, "copy", "healthy");
    assert_eq!(fs::read_to_string(script.with_extension("calls")).unwrap().lines().count(), 2, "one try, and one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_not_there_keeps_nobody_from_starting_and_serves_when_it_comes() {
    let (mut instance, draft) = with_copy("");
    let (there, away) = (instance.data().join("token-copy/tokens"), instance.path("away"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    instance.start();
    sign(&instance.connect("node-1").await, &draft).await.unwrap();
    let copy = replica(&instance, "copy");
    assert_eq!(copy["health"], "failed", "{copy}");
    let log = fs::read_to_string(instance.path("serve.log")).unwrap();
    assert!(log.contains("token main, replica copy"), "{log}");
    fs::remove_dir(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    becomes(&instance, "copy", "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_serves_a_cluster_goes_away_and_comes_back_and_its_clearing_is_named() {
    goes_away_and_comes_back(on_tpm()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_on_unix_sockets_serves_goes_away_and_comes_back_alike() {
    goes_away_and_comes_back(on_tpm_that(Swtpm::start_on_sockets)).await;
}

async fn goes_away_and_comes_back((mut instance, mut tpm, draft): (Instance, Swtpm, Draft)) {
    let node = instance.connect("node-1").await;
    sign(&node, &draft).await.unwrap();
    let cluster = instance.json(&["cluster", "get", "demo"]);
    assert_eq!(cluster["seal_profile"], "oaep-sha256", "{cluster}");
    assert_eq!(health(&instance, "").await, ServingStatus::Serving);

    tpm.stop();
    let fault = sign(&node, &draft).await.unwrap_err();
    // Whoever finds it going away is told that nobody knows what became of it, all others that it is away.
    assert!(matches!(fault.reason(), Reason::TokenUnknown | Reason::TokenUnavailable), "{fault:?}");
    for service in ["", "keyward.v1.Licensing", "tokens/main"] {
        health_becomes(&instance, service, ServingStatus::NotServing).await;
    }
    let fault = sign(&node, &draft).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::TokenUnavailable, "{fault:?}");
    assert_eq!(health(&instance, "keyward.v1.Audit").await, ServingStatus::Serving);
    tpm.restart();
    signs_again(&node, &draft).await;
    health_becomes(&instance, "", ServingStatus::Serving).await;

    tpm.clear();
    let begun = Instant::now();
    loop {
        let fault = sign(&node, &draft).await.unwrap_err();
        if fault.message().contains("cleared or replaced") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{fault:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let main = becomes(&instance, "main", "failed");
    assert!(main["reason"].as_str().unwrap().contains("cleared or replaced"), "{main}");
    assert_eq!(instance.stop(), Some(0));
    let said = instance.serve_fails().refused(78, "TOKEN_MISSING");
    assert!(said.contains("cleared or replaced") && said.contains("next:"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nobody_asks_for_is_found_within_two_seconds_of_its_return() {
    let (instance, mut tpm, draft) = on_tpm();
    let node = instance.connect("node-1").await;
    let mut times = Vec::new();
    for _ in 0..3 {
        sign(&node, &draft).await.unwrap();
        tokio::task::block_in_place(|| tpm.stop());
        sign(&node, &draft).await.unwrap_err();
        // Long enough for it to be left alone for as long as it ever is.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        tokio::task::block_in_place(|| tpm.restart());
        let back = Instant::now();
        becomes(&instance, "main", "healthy");
        times.push(back.elapsed());
    }
    assert!(median(&times) < Duration::from_secs(2), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_ask_again() {
    use tonic_types::StatusExt;
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = fail_by_script(&instance);
    instance.reconfigure("sessions = 2", "sessions = 1");
    instance.start();
    let node = instance.connect("node-1").await;
    fs::write(&script, "C_Sign always delay 40").unwrap();
    for _ in 0..8 {
        sign(&node, &draft).await.unwrap();
    }
    let calls: Vec<_> = (0..80)
        .map(|_| {
            let (mut client, request) = (node.licensing(), draft.request("clusters/demo"));
            tokio::spawn(async move { client.sign_document(request).await.map(|_| ()) })
        })
        .collect();
    let mut refused = Vec::new();
    for call in calls {
        refused.extend(call.await.unwrap().err().filter(|status| status.code() == tonic::Code::ResourceExhausted));
    }
    let status = refused.first().expect("a queue of 64 does not take 80");
    let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(wait >= Duration::from_millis(500), "{wait:?}: the queue is as long as its acts");
    assert_eq!(failed(status.clone()).reason(), Reason::TokenBusy);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_fail_while_a_token_waits_and_the_operator_is_served() {
    let mut instance = Instance::new();
    let pin = instance.data().join("pins/main.user");
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    instance.start_waiting();
    for service in ["", "keyward.v1.Licensing", "tokens/main"] {
        assert_eq!(health(&instance, service).await, ServingStatus::NotServing, "{service:?}");
    }
    let main = replica(&instance, "main");
    assert_eq!(main["health"], "waiting", "{main}");
    assert!(!main["latched"].as_str().unwrap().is_empty(), "{main}");
    let said = instance.cli(&["token", "status", "main"]).good();
    assert!(said.contains("next         put the right PIN into its source"), "{said}");
    assert!(instance.cli(&["token", "list"]).good().ends_with("next: keyward token status main\n"));
    fs::write(&pin, right).unwrap();
    instance.cli(&["token", "unlatch", "main"]).good();
    instance.cli(&["token", "login", "main"]).good();
    instance.wait_for_line("ready");
    health_becomes(&instance, "", ServingStatus::Serving).await;
    assert_eq!(instance.stop(), Some(0));
}

#[test]
fn what_does_not_fit_together_in_a_tokens_configuration_is_said_all_at_once() {
    let instance = Instance::new();
    instance.reconfigure("profile = \"softhsm\"", "profile = \"softhsm\"\ntcti = \"device:/dev/tpm0\"");
    instance.configure("\n[[token.replica]]\nname = \"b\"\nprofile = \"tpm2\"\npin = { file = \"none\" }\n");
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    let all = [
        "token main: tcti is for a TPM",
        "the PIN of token b",
        "keys of a TPM are in that TPM alone",
        "token b: a TPM does one thing at a time",
    ];
    for words in all {
        assert!(said.contains(words), "{words}: {said}");
    }
    instance.configure("colour = 1\n");
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("token.0.replica.0.colour"), "{said}");
}

#[test]
fn a_profile_file_is_found_wherever_the_service_is_started_from() {
    let mut instance = Instance::nothing();
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles/softhsm.toml");
    fs::copy(profile, instance.path("mine.toml")).unwrap();
    let data = instance.data();
    let init = ["init", data.to_str().unwrap(), "--profile", "mine.toml", "--listen", "127.0.0.1:0"];
    ends(
        Command::new(KEYWARD).current_dir(instance.directory.path()).args(init).args(["--join-listen", "127.0.0.1:0"]),
    )
    .good();
    instance.start();
    let listed = instance.cli(&["token", "list"]).good();
    assert!(listed.contains("mine.toml") && !listed.contains("next:"), "{listed}");
}

#[test]
fn a_token_has_the_sessions_that_its_profile_recommends_if_the_configuration_says_nothing() {
    let instance = Instance::new();
    instance.reconfigure("sessions = 2\n", "");
    instance.cli(&["config", "check"]).good();
    assert_eq!(replica(&instance, "main")["sessions"], 2);
    instance.reconfigure("profile = \"softhsm\"", "profile = \"tpm2\"");
    instance.cli(&["config", "check"]).good();
    assert_eq!(replica(&instance, "main")["sessions"], 1);
}

#[test]
fn a_tpm_without_a_way_to_it_is_refused_with_the_next_step() {
    let instance = Instance::nothing();
    let said = instance.init(&["--profile", "swtpm"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("--tcti"), "{said}");
    let said = instance.init(&["--profile", "tpm2", "--sessions", "2"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("leave --sessions out"), "{said}");
    let said = instance.init(&["--profile", "luna"]).refused(69, "TOKEN_UNSUPPORTED");
    assert!(said.contains("next:") && said.contains("--label"), "{said}");
    assert!(!instance.data().exists());
}

#[test]
fn a_token_that_is_there_already_is_taken_as_it_is() {
    let mut instance = Instance::nothing();
    let (directory, pin) = (instance.path("token"), instance.path("pin"));
    fs::create_dir_all(directory.join("tokens")).unwrap();
    let conf = directory.join("softhsm2.conf");
    fs::write(&conf, format!("directories.tokendir = {}/tokens\n", directory.display())).unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &conf)
        .args(["--init-token", "--free", "--label", "ours", "--pin", "123456", "--so-pin", "12345678"])
        .output()
        .unwrap();
    let words = String::from_utf8(made.stdout).unwrap() + &String::from_utf8(made.stderr).unwrap();
    assert!(made.status.success(), "{words}");
    fs::write(&pin, "123456\n").unwrap();
    Command::new("chmod").arg("600").arg(&pin).status().unwrap();
    let existing = |serial: &str| {
        let (directory, pin) = (directory.to_str().unwrap(), pin.to_str().unwrap());
        instance.init(&["--label", "ours", "--serial", serial, "--pin-file", pin, "--token-directory", directory])
    };
    let said = existing("0000000000000000").refused(78, "TOKEN_MISSING");
    assert!(!instance.data().exists(), "nothing is left of a data directory that could not be made");
    let serial = said.split('"').find(|word| word.len() == 16 && *word != "0000000000000000").unwrap().to_owned();
    existing(&serial).good();
    instance.start();
    assert_eq!(replica(&instance, "main")["label"], "ours");
    assert_eq!(instance.stop(), Some(0));
}

#[test]
fn a_pin_comes_from_a_systemd_credential() {
    let mut instance = Instance::new();
    let credentials = instance.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::rename(instance.data().join("pins/main.user"), credentials.join("token-pin")).unwrap();
    instance.reconfigure("file = \"pins/main.user\"", "credential = \"token-pin\"");
    instance.cli(&["config", "check"]).good();
    let said = instance.serve_fails().refused(78, "PIN_SOURCE");
    assert!(said.contains("systemd gave this process none"), "{said}");
    instance.start_with(&[("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())]);
}

#[test]
fn a_typed_pin_is_asked_for_without_showing_it_and_the_service_waits_for_it() {
    let mut instance = Instance::new();
    let pin = fs::read_to_string(instance.data().join("pins/main.user")).unwrap();
    let text = fs::read_to_string(instance.data().join("keyward.toml")).unwrap();
    let (before, after) = text.split_once("[token.pin]\nfile = \"pins/main.user\"\n").unwrap();
    fs::write(instance.data().join("keyward.toml"), format!("{before}pin = \"prompt\"\n{after}")).unwrap();
    instance.start_waiting();
    // Without a terminal there is nobody to ask.
    let data = instance.data();
    let login = ["token", "login", "main", "--data", data.to_str().unwrap()];
    ends(Command::new("setsid").arg("--wait").arg(KEYWARD).args(login)).refused(78, "PIN_SOURCE");
    let typed = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:-1])
seen = b""
while b": " not in seen:
    seen += os.read(terminal, 1024)
time.sleep(0.3)
os.write(terminal, sys.argv[-1].encode() + b"\n")
try:
    while True:
        more = os.read(terminal, 1024)
        if not more:
            break
        seen += more
except OSError:
    pass
print(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let said = ends(Command::new("python3").args(["-c", typed, KEYWARD]).args(login).arg(&pin)).good();
    assert!(said.contains("PIN of token main: ") && said.contains("is logged in"), "{said}");
    assert!(!said.contains(&pin), "what is typed is not shown");
    instance.wait_for_line("ready");
    let log = serde_json::to_string(&instance.log()).unwrap();
    assert!(!log.contains(&pin) && !fs::read_to_string(instance.path("serve.log")).unwrap().contains(&pin));
}

#[test]
fn tokens_are_listed_for_people_and_programs_with_and_without_a_service() {
    let (mut instance, _) = with_copy("");
    let rows = |words: &str| words.lines().map(|line| line.split_whitespace().count()).collect::<Vec<_>>();
    let said = instance.cli(&["token", "list"]).good();
    assert!(said.contains("stopped") && said.contains("copy") && rows(&said).len() == 3, "{said}");
    instance.start();
    let said = instance.cli(&["token", "list"]).good();
    assert!(said.matches("healthy").count() == 2, "{said}");
    let status = instance.cli(&["token", "status", "copy"]).good();
    for words in ["token        main, replica copy", "health       healthy", "quarantine   none", "0 restarts"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    instance.cli(&["token", "status", "none"]).refused(65, "NOT_FOUND");
    let nobody: PathBuf = Path::new("/nowhere").into();
    keyward(&["token", "list", "--data", nobody.to_str().unwrap()]).refused(78, "DATA_DIRECTORY");
}

#[test]
fn a_cluster_may_have_its_key_in_a_token_that_is_named() {
    let (mut instance, other) = (Instance::new(), Instance::new());
    let text = fs::read_to_string(other.data().join("keyward.toml")).unwrap();
    let second = &text[text.find("[[token]]").unwrap()..];
    let there = other.data();
    let second = second
        .replace("name = \"main\"", "name = \"second\"")
        .replace("directory = \"token\"", &format!("directory = \"{}\"", there.join("token").display()))
        .replace("\"pins/main.user\"", &format!("\"{}\"", there.join("pins/main.user").display()));
    instance.configure(&format!("\n{second}"));
    instance.start();
    let made = instance.create_cluster("there", &["--token", "second"]);
    assert_eq!(made["key"]["token"], "second");
    assert_eq!(instance.create_cluster("here", &[])["key"]["token"], "main");
    let args = ["cluster", "create", "nowhere", "--url", "https://x.example.test", "--offline", "--token", "third"];
    let request = instance.path("nowhere.xml");
    let said = instance.cli(&[&args[..], &["--request", request.to_str().unwrap()]].concat()).refused(65, "NOT_FOUND");
    assert!(said.contains("name one of: main, second"), "{said}");
}
