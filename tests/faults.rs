//! What is left after the service is killed, stopped, hung up on, or left without a disk.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::error::Reason;
use keyward::grpc::client::failed;
use serde_json::Value;

use crate::kit::load::{all_recorded, signature};
use crate::kit::postgres::Postgres;
use crate::kit::{Instance, KEYWARD, PATIENCE, events, until_serving};

/// Holds the service at a point within a signature, kills it there, and starts it again.
async fn killed_at(point: &str) -> (Instance, Vec<Value>) {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let point = format!("{point}:sign-document");
    instance.start_with(&[("KEYWARD_FAULTPOINT", &point)]);
    let node = instance.connect("node-1").await;
    let asked = draft.request("clusters/demo");
    let call = tokio::spawn(async move { node.licensing().sign_document(asked).await });
    instance.wait_for_line(&format!("faultpoint {point}"));
    instance.kill();
    assert!(call.await.unwrap().is_err(), "no answer came from a killed service");

    instance.start();
    assert!(instance.printed().contains(&"closed 1 intents that an earlier run left open".to_owned()));
    let log = instance.log();
    let outcome = events(&log, "outcome").into_iter().find(|event| event["result"]["is"] == "unknown").unwrap();
    let intent = usize::try_from(outcome["intent"].as_u64().unwrap()).unwrap();
    assert_eq!(log[intent]["event"]["act"]["do"], "sign-document");
    let node = instance.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    (instance, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_intent_and_token_the_intent_is_closed_at_the_next_start() {
    let (mut instance, _) = killed_at("after-intent").await;
    assert_eq!(instance.stop(), Some(0));
    instance.start();
    assert!(!instance.printed().iter().any(|line| line.starts_with("closed")), "closed once, not again");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_token_and_outcome_the_signature_is_gone_and_the_log_says_so() {
    let (instance, log) = killed_at("before-outcome").await;
    let outcome = events(&log, "outcome").into_iter().find(|event| event["result"]["is"] == "unknown").unwrap();
    assert!(outcome["result"]["message"].as_str().unwrap().contains("nothing was released"), "{outcome}");
    drop(instance);
}

#[test]
fn killed_while_a_key_is_made_the_cluster_does_not_exist_and_the_log_names_the_orphan() {
    let mut instance = Instance::new();
    // The first start makes a key of its own, with which the token is tried out.
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    instance.start_with(&[("KEYWARD_FAULTPOINT", "before-outcome:generate-key")]);
    let url = "https://rms.example.test";
    let data = instance.data();
    let mut call = Command::new(KEYWARD)
        .args(["cluster", "create", "demo", "--url", url, "--offline", "--data", data.to_str().unwrap()])
        .current_dir(instance.directory.path())
        .spawn()
        .unwrap();
    instance.wait_for_line("faultpoint before-outcome:generate-key");
    instance.kill();
    assert!(!call.wait().unwrap().success());

    instance.start();
    instance.cli(&["cluster", "get", "demo"]).refused(65, "NOT_FOUND");
    let log = instance.log();
    let outcomes = events(&log, "outcome");
    let unknown = outcomes.iter().find(|event| event["result"]["is"] == "unknown").unwrap();
    let intent = &log[usize::try_from(unknown["intent"].as_u64().unwrap()).unwrap()]["event"];
    assert_eq!(intent["act"]["do"], "generate-key");
    assert_eq!(intent["act"]["id"].as_str().unwrap().len(), 40, "the key that may be in the token is named");
    instance.cluster("demo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_loses_its_answer_and_nothing_else() {
    let instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    let node = instance.connect("node-1").await;
    let mut begun = 0;
    for wait_us in (0..20).map(|n| n * 150) {
        let mut client = node.licensing();
        let asked = draft.request("clusters/demo");
        let call = tokio::spawn(async move { client.sign_document(asked).await });
        tokio::time::sleep(Duration::from_micros(wait_us)).await;
        call.abort();
        begun += 1;
    }
    // What was begun ends without its caller.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = instance.log();
    let signed = events(&log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
    assert!((1..=begun).contains(&signed), "{signed} of {begun} calls got as far as an intent");
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_answers_what_is_under_way_and_records_it() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    let mut callers = Vec::new();
    for _ in 0..8 {
        let node = instance.connect("node-1").await;
        let draft = draft.clone();
        callers.push(tokio::spawn(async move {
            let mut answered = Vec::new();
            loop {
                match node.licensing().sign_document(draft.request("clusters/demo")).await {
                    Ok(signed) => answered.push(hex::encode(signed.into_inner().digest)),
                    Err(_) => return answered,
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(instance.stop(), Some(0));
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.unwrap().len();
    }
    assert!(answered > 0);
    instance.start();
    assert!(!instance.printed().iter().any(|line| line.starts_with("closed")), "nothing was left open");
    let log = instance.log();
    let done = events(&log, "outcome").iter().filter(|event| event["result"]["is"] == "done").count();
    assert!(done > answered, "{done} outcomes, {answered} answers and a key");
    assert_eq!(events(&log, "log-closed").len(), 2, "after init, and after the signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_signing_before_the_token_is_asked() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    // No file may grow beyond 1 MiB: what a full disk does to the database, without filling one.
    let script = format!("trap '' XFSZ; ulimit -f 1024; exec {KEYWARD} serve {}", instance.data().display());
    instance.start_as(Command::new("bash").arg("-c").arg(script));
    let node = instance.connect("node-1").await;
    let mut released = HashSet::new();
    let mut refused = None;
    for _ in 0..4000 {
        match node.licensing().sign_document(draft.request("clusters/demo")).await {
            Ok(signed) => released.insert(signed.into_inner().document),
            Err(status) => {
                refused = Some(failed(status));
                break;
            }
        };
    }
    let refused = refused.expect("the limit was never reached");
    assert_eq!(refused.reason(), Reason::StoreUnavailable, "{refused:?}");
    instance.kill();

    // With room again, the log is whole and every released signature is in it.
    instance.start();
    let log = instance.log();
    let text = serde_json::to_string(&log).unwrap();
    for document in &released {
        let at = document.rfind("size=\"2048\">").unwrap() + 12;
        let signature = &document[at..at + document[at..].find('<').unwrap()];
        assert!(text.contains(signature), "a released signature is not in the log");
    }
}

/// Where the service can be held within a signature: around each of its two commits, and around the token.
const POINTS: &[&str] = &[
    "before-commit:sign-document",
    "after-commit:sign-document",
    "after-intent:sign-document",
    "before-outcome:sign-document",
    "before-commit:outcome",
    "after-commit:outcome",
];

/// At every point, the service is killed, or the database server under it. Whatever the caller got is in the log, the log
/// holds, no intent stays open, and it goes on.
async fn killed_at_every_point(mut server: Option<Postgres>) {
    let mut instance = server.as_ref().map_or_else(Instance::new, |server| Instance::in_database(server, "a"));
    instance.start();
    instance.cluster("demo");
    instance.node("demo", "node-1");
    let mut draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let held = instance.path("held");
    let wanted = format!("@{}", held.display());
    let environment = [("KEYWARD_FAULTPOINT", wanted.as_str())];
    instance.start_with(&environment);
    for (number, point) in POINTS.iter().enumerate() {
        for of_database in [false, true] {
            if of_database && server.is_none() {
                continue;
            }
            let node = instance.connect("node-1").await;
            draft.user = format!("user-{number}-{of_database}@example.test");
            let asked = draft.request("clusters/demo");
            fs::write(&held, point).unwrap();
            let call = tokio::spawn(async move { node.licensing().sign_document(asked).await });
            instance.wait_for_line(&format!("faultpoint {point}"));
            match &mut server {
                Some(server) if of_database => {
                    server.kill();
                    fs::remove_file(&held).unwrap();
                    server.restart();
                }
                _ => {
                    fs::remove_file(&held).unwrap();
                    instance.kill();
                    instance.start_with(&environment);
                }
            }
            let answer = call.await.unwrap();
            until_serving(&instance, true).await;
            let node = instance.connect("node-1").await;
            let end = Instant::now() + PATIENCE;
            // A service that has not yet seen its server leave and come back says so, once; then it goes on by itself.
            while let Err(status) = node.licensing().sign_document(draft.request("clusters/demo")).await {
                assert!(of_database && status.code() == tonic::Code::Unavailable, "{status:?}");
                assert!(Instant::now() < end, "it does not go on: {status:?}");
            }
            let log = instance.closed_log();
            let answered: Vec<String> = answer.iter().map(|signed| signature(&signed.get_ref().document)).collect();
            assert!(of_database || answered.is_empty(), "no answer came from a killed service");
            all_recorded(&log, &answered);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_the_log_in_a_file_is_whole() {
    killed_at_every_point(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_with_or_without_its_server_the_log_in_a_database_is_whole() {
    killed_at_every_point(Some(Postgres::start())).await;
}
