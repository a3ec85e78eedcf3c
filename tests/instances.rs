//! Instances on one PostgreSQL database: each with a log of its own, all with the same keys, clusters and nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::audit::chain::ChainHash;
use keyward::custody::Standing;
use keyward::error::Reason;
use keyward::grpc::client::failed;
use keyward::store::Store;
use sqlx::Connection as _;

use crate::kit::postgres::Postgres;
use crate::kit::token::faulty::faulty_profile;
use crate::kit::{Instance, PATIENCE, events, eventually, keyward, python, until_serving};

/// Copies the file `from` of one instance's place into another's.
fn carry(from: &Instance, to: &Instance, name: &str) {
    let good = Command::new("cp").arg("-a").arg(from.path(name)).arg(to.path(name)).status().unwrap().success();
    assert!(good);
}

/// Two instances that run on one database, and a cluster and a node that the first has made.
fn two(server: &Postgres) -> (Instance, Instance) {
    let mut first = Instance::in_database(server, "first");
    let mut second = Instance::beside(&first, "second");
    first.start();
    second.start();
    first.cluster("demo");
    first.node("demo", "node-1");
    (first, second)
}

/// How records name the device of an instance.
fn device(instance: &Instance) -> String {
    let token = instance.json(&["token", "status"])[0].clone();
    format!("{} serial {}", token["label"].as_str().unwrap(), token["serial"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_serve_the_same_nodes_with_the_same_keys_and_each_writes_its_own_log() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    // What one has made, the other knows; a node that joined at one is served by both.
    second.node("demo", "node-2");
    carry(&first, &second, "node-1");
    carry(&second, &first, "node-2");
    for instance in [&first, &second] {
        let draft = instance.draft("demo");
        for node in ["node-1", "node-2"] {
            let node = instance.connect(node).await;
            node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
        }
    }
    let logs = [first.log(), second.log()];
    assert_ne!(logs[0][0]["log"], logs[1][0]["log"]);
    for log in &logs {
        let signed = events(log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
        assert!(signed >= 2, "{signed}");
    }
    // Each log is signed for by a key of its own, which the other's trust does not cover.
    let export = first.export();
    let wrong = second.data().join("audit.trust");
    let (file, wrong) = (export.join("audit.jsonl"), wrong.to_str().unwrap().to_owned());
    let ran = keyward(&["audit", "verify", file.to_str().unwrap(), "--trust", &wrong]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    // Both stop and start, in any order.
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
    second.start();
    first.start();
    first.log();
    second.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_log_was_taken_over_signs_no_more() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "only");
    first.start();
    first.cluster("demo");
    first.node("demo", "node-1");
    let draft = first.draft("demo");
    let node = first.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();

    // The same instance once more, as from another machine: it holds the log, and the first does not know.
    let mut usurper = Instance::nothing();
    carry(&first, &usurper, "data");
    fs::remove_file(usurper.data().join("operator.sock")).unwrap();
    usurper.start();

    for _ in 0..3 {
        let fault = failed(node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap_err());
        assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
    }
    let log = usurper.log();
    let begun = events(&log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
    assert_eq!(begun, 1, "nothing was begun after the log was taken over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_one_instance_saw_refused_is_not_tried_by_the_others() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    first.start();
    first.cluster("demo");
    first.node("demo", "node-1");
    carry(&first, &second, "node-1");
    assert_eq!(first.stop(), Some(0));
    let script = first.path("script");
    let profile = faulty_profile(&first, &script);
    for instance in [&mut first, &mut second] {
        instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", profile.display()));
        instance.start();
    }
    // The PIN was changed, and then both lost their logins.
    fs::write(&script, "C_Login always log\nC_Login always return 0xa0\nC_SignInit 2 logout").unwrap();
    for instance in [&first, &second] {
        let (node, draft) = (instance.connect("node-1").await, instance.draft("demo"));
        eventually("the PIN is latched", || {
            let signed = tokio::task::block_in_place(|| {
                let sign = async { node.licensing().sign_document(draft.request("clusters/demo")).await };
                tokio::runtime::Handle::current().block_on(sign)
            });
            signed.is_err_and(|status| failed(status).reason() == Reason::TokenWaiting)
        });
        let status = instance.json(&["token", "status"]);
        assert!(!status[0]["latched"].as_str().unwrap().is_empty(), "{status}");
    }
    assert_eq!(fs::read_to_string(script.with_extension("calls")).unwrap(), "C_Login\n", "one try by both together");
}

#[test]
fn an_instance_that_starts_while_another_one_logs_in_waits_for_that_and_then_serves_by_itself() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    let script = first.path("script");
    let profile = faulty_profile(&first, &script);
    for instance in [&mut first, &mut second] {
        instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", profile.display()));
    }
    fs::write(&script, "C_Login always log\nC_Login 1 delay 3000").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| first.start());
        eventually("the first logs in", || script.with_extension("calls").exists());
        // Ready, and not only running: no person is needed.
        second.start();
    });
    assert_eq!(fs::read_to_string(script.with_extension("calls")).unwrap(), "C_Login\nC_Login\n");
}

#[test]
fn an_instance_is_made_once_and_in_a_database_that_is_empty_or_beside_another() {
    let server = Postgres::start();
    let first = Instance::in_database(&server, "first");
    let place = tempfile::tempdir().unwrap();
    let new = place.path().join("data");
    let new = new.to_str().unwrap();
    let url = server.url();
    let made = |more: &[&str]| keyward(&[&["init", new], more].concat());
    made(&["--postgres", &url, "--instance", "first"]).refused(65, "ALREADY_EXISTS");
    let said = made(&["--postgres", &url, "--instance", "other"]).refused(65, "ALREADY_EXISTS");
    assert!(said.contains("--beside"), "{said}");
    let data = first.data();
    made(&["--beside", data.to_str().unwrap(), "--instance", "first"]).refused(65, "ALREADY_EXISTS");
    made(&["--postgres", "postgres://k:word@localhost/k", "--instance", "third"]).refused(78, "CONFIG_INVALID");
    made(&["--postgres", "postgres://k@192.0.2.1/k", "--instance", "third"]).refused(78, "CONFIG_INVALID");
    let alone = Instance::new();
    let data = alone.data();
    made(&["--beside", data.to_str().unwrap(), "--instance", "second"]).refused(78, "CONFIG_INVALID");
    assert!(!Path::new(new).exists(), "whole or not at all");
}

/// What a log tells of others: which log, and in which state.
fn told(instance: &Instance) -> Vec<(String, String, u64, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let log = instance.log();
    let told = events(&log, "other-log").into_iter();
    told.map(|e| (text(&e["log"]), text(&e["state"]), e["seq"].as_u64().unwrap(), text(&e["sha256"]))).collect()
}

#[test]
fn each_log_tells_of_the_openings_and_closings_of_the_others_and_holds_their_hashes() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    assert!(told(&first).is_empty(), "it is alone");
    // Made: a log begins, is opened and closed. Then a run of its own.
    let mut second = Instance::beside(&first, "second");
    second.start();
    let states = |told: &[(String, String, u64, String)]| told.iter().map(|t| t.1.clone()).collect::<Vec<_>>();
    eventually("the first tells of the second", || told(&first).len() >= 3);
    let of_second = told(&first);
    assert_eq!(states(&of_second), ["opened", "closed", "opened"]);
    // The second tells how the first stands when it begins a run itself: as it was made, and in its run.
    let of_first = told(&second);
    assert_eq!(states(&of_first), ["opened", "opened"]);
    let records = second.export().join("audit.jsonl");
    assert_eq!(second.stop(), Some(0));
    eventually("the first tells that the second ended", || states(&told(&first)).last().unwrap() == "closed");
    // What is told of is what stands there, byte for byte.
    let lines: Vec<String> = fs::read_to_string(records).unwrap().lines().map(str::to_owned).collect();
    for (log, _, seq, sha256) in of_second {
        let line = &lines[usize::try_from(seq).unwrap()];
        assert!(line.contains(&format!("\"log\":\"{log}\"")), "{line}");
        assert_eq!(ChainHash::of(line.as_bytes()).to_string(), sha256);
    }
    // Both verifiers take a log that tells of others.
    let (export, trust) = (first.export(), first.data().join("audit.trust"));
    let [records, checkpoint] = ["audit.jsonl", "audit.checkpoint"].map(|name| export.join(name));
    let options = [Path::new("--checkpoint"), &checkpoint, Path::new("--trust"), &trust];
    python("verify_audit.py", &[&[&*records], &options[..]].concat()).good();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_taken_out_of_the_database_is_missed_by_the_others_until_a_person_gives_it_up() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    first.cluster("demo");
    first.node("demo", "node-1");
    let draft = first.draft("demo");
    let mut second = Instance::beside(&first, "second");
    second.start();
    let log = second.log()[0]["log"].as_str().unwrap().to_owned();
    // Its log is not the one that has the last record of what they share.
    assert_eq!(first.stop(), Some(0));
    first.start();
    assert_eq!(told(&first).last().unwrap().1, "opened");
    let node = first.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    second.kill();
    let tables = ["entry", "subtree", "checkpoint", "log"];
    server.sql(&tables.map(|table| format!("DELETE FROM {table} WHERE log_id = '{log}'")).join("; "));

    // Whoever runs notices, and signs no more.
    until_serving(&first, false).await;
    let fault = failed(node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap_err());
    assert!(matches!(fault.reason(), Reason::LogMissing | Reason::RecordBroken), "{fault:?}");
    assert!(fault.message().contains(&log), "{fault:?}");
    first.kill();
    // Who starts notices.
    let said = first.serve_fails().refused(74, "LOG_MISSING");
    assert!(said.contains(&log), "{said}");
    let ran = first.cli(&["audit", "verify", "--output", "json"]);
    assert!(ran.code == Some(1) && ran.stdout.contains("log-missing"), "{ran:?}");
    // A person decides that it is lost.
    let shown = first.json(&["audit", "re-anchor"]);
    assert_eq!(shown["reason"], "LOG_MISSING");
    first.cli(&["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()]).good();
    first.start();
    let node = first.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    first.log();
}

#[test]
fn one_instance_countersigns_the_checkpoints_of_another_on_its_database() {
    let server = Postgres::start();
    let (log, witness) = two(&server);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (trust, by) = (text(&log.data().join("audit.trust")), text(&witness.data().join("audit.trust")));
    let verified =
        |proof: &Path| keyward(&["audit", "verify-proof", &text(proof), "--trust", &trust, "--witness", &by]);
    let mut before: Option<PathBuf> = None;
    for round in 0..3 {
        let proof = log.path(&format!("proof-{round}"));
        let checkpoint = log.export().join("audit.checkpoint");
        match &before {
            None => {
                fs::copy(&checkpoint, &proof).unwrap();
                verified(&proof).refused(1, "SIGNATURE_INVALID");
            }
            Some(seen) => drop(log.cli(&["audit", "prove", "--since", &text(seen), "--out", &text(&proof)]).good()),
        }
        let signed = log.path(&format!("signed-{round}"));
        witness.cli(&["audit", "countersign", &text(&proof), "--trust", &trust, "--out", &text(&signed)]).good();
        verified(&signed).good();
        before = Some(signed);
    }
    // Its own it does not.
    let own = witness.export().join("audit.checkpoint");
    let args = ["audit", "countersign", &text(&own), "--trust", &by, "--out", &text(&witness.path("none"))];
    witness.cli(&args).refused(65, "INVALID_ARGUMENT");
}

/// Waits until the second instance waits for its login.
async fn asks_for_a_lease(server: &Postgres) {
    let mut server_sees = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let end = Instant::now() + PATIENCE;
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keyward second' AND query LIKE 'INSERT INTO lease%'";
    while sqlx::query_scalar::<_, i64>(asks).fetch_one(&mut server_sees).await.unwrap() == 0 {
        assert!(Instant::now() < end, "it does not ask for the lease");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_waits_until_another_instance_has_ended_its_own_to_the_same_device() {
    let server = Postgres::start();
    let first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    let device = device(&first);
    // Another instance is at it.
    let other = keyward::store::Postgres::open(&server.url(), None, "third", true).await.unwrap();
    assert!(other.lease(&format!("login {device}"), 60).await.unwrap());
    let starting = tokio::task::spawn_blocking(move || {
        second.start();
        second
    });
    asks_for_a_lease(&server).await;
    let released = keyward::audit::record::time_text(keyward::clock::now_us());
    assert!(other.lease(&format!("login {device}"), 0).await.unwrap());
    other.close().await;
    let second = starting.await.unwrap();
    let log = second.log();
    let run = log.iter().rposition(|record| record["event"]["type"] == "log-opened").unwrap();
    let begun = log[..run].iter().rfind(|record| record["event"]["state"] == "login-begun").unwrap();
    assert!(begun["time"].as_str().unwrap() > released.as_str(), "{begun} before {released}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_is_put_right_while_a_login_waits_for_that_of_another_instance_costs_no_wrong_try() {
    let server = Postgres::start();
    let first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    let pin = first.data().join("pins/main.user");
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    let work = format!("login {}", device(&first));
    let other = keyward::store::Postgres::open(&server.url(), None, "third", true).await.unwrap();
    assert!(other.lease(&work, 60).await.unwrap());
    let starting = tokio::task::spawn_blocking(move || second.start());
    asks_for_a_lease(&server).await;
    fs::write(&pin, right).unwrap();
    assert!(other.lease(&work, 0).await.unwrap());
    // Ready, and not only waiting.
    starting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_another_instance_is_unlatched_when_it_broke_off_and_not_before() {
    let server = Postgres::start();
    let (first, _second) = two(&server);
    let device = device(&first);
    let other = keyward::store::Postgres::open(&server.url(), None, "third", true).await.unwrap();
    assert!(other.lease(&format!("login {device}"), 60).await.unwrap());
    let service = keyward::caller::CallerNote::service();
    let begun = |standing: &mut Standing| {
        standing.latched = Some("a login was begun and its end is not recorded".into());
    };
    Standing::change(&other, &device, "login-begun", &service, "", begun).await.unwrap();
    let main = || first.json(&["token", "status"])[0].clone();
    assert_eq!((main()["login_under_way"].clone(), main()["latched"].clone()), (true.into(), "".into()));
    first.cli(&["token", "unlatch", "main"]).refused(69, "TOKEN_BUSY");
    // It ends without a word.
    assert!(other.lease(&format!("login {device}"), 0).await.unwrap());
    assert_eq!(main()["login_under_way"], false);
    assert!(main()["latched"].as_str().unwrap().contains("a login was begun"), "{}", main());
    first.cli(&["token", "unlatch", "main"]).good();
    assert_eq!(main()["latched"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_one_instance_imposes_holds_in_the_others_and_so_does_its_end() {
    let server = Postgres::start();
    let (first, second) = two(&server);
    let (draft, node) = (first.draft("demo"), first.connect("node-1").await);
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    let device = device(&first);
    // Another instance has had a wrong signature of the device.
    let other = keyward::store::Postgres::open(&server.url(), None, "third", true).await.unwrap();
    let service = keyward::caller::CallerNote::service();
    let imposed = |standing: &mut Standing| standing.quarantined = Some("a wrong signature".into());
    Standing::change(&other, &device, "quarantined", &service, "a wrong signature", imposed).await.unwrap();
    for instance in [&first, &second] {
        eventually("it is quarantined here too", || instance.json(&["token", "status"])[0]["health"] == "quarantined");
    }
    let fault = failed(node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap_err());
    assert_eq!(fault.reason(), Reason::TokenMismatch, "{fault:?}");
    // A person ends it, at one of them.
    second.cli(&["token", "release", "main"]).good();
    eventually("it serves again", || first.json(&["token", "status"])[0]["health"] == "healthy");
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
}
