//! Instances on one PostgreSQL database: each with a log of its own, all with the same keys, clusters and nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward::error::Reason;
use keyward::grpc::client::failed;

use crate::kit::postgres::Postgres;
use crate::kit::token::faulty::faulty_profile;
use crate::kit::{Instance, events, eventually, keyward};

/// Copies the file `from` of one instance's place into another's.
fn carry(from: &Instance, to: &Instance, name: &str) {
    let good = Command::new("cp").arg("-a").arg(from.path(name)).arg(to.path(name)).status().unwrap().success();
    assert!(good);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_serve_the_same_nodes_with_the_same_keys_and_each_writes_its_own_log() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    first.start();
    second.start();
    first.cluster("demo");
    first.node("demo", "node-1");
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
