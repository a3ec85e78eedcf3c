//! Checkpoints and the anchor: when the log is signed, what stops without it, and which stores an instance refuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::note::Note;
use keyward::audit::trust::Trust;
use keyward::error::Reason;
use keyward::grpc::client::{Connection, failed};
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::kit::{Draft, Instance, events};

/// How long to wait for what the service does by itself.
const PATIENCE: Duration = Duration::from_secs(40);

fn set(instance: &Instance, name: &str, value: &str) {
    let path = instance.data().join("keyward.toml");
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
    fs::write(&path, text.replace(line, &format!("{name} = {value}"))).unwrap();
}

fn anchor_file(instance: &Instance) -> PathBuf {
    instance.data().join("audit.anchor")
}

/// The anchor, opened with the keys that were given out.
fn anchor(instance: &Instance) -> Checkpoint {
    let trust: Trust = fs::read_to_string(instance.data().join("audit.trust")).unwrap().parse().unwrap();
    let note: Note = fs::read_to_string(anchor_file(instance)).unwrap().parse().unwrap();
    trust.checkpoint(&note).unwrap()
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !there() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The store as a stopped instance leaves it, which is one file.
fn store(instance: &Instance) -> PathBuf {
    instance.data().join("keyward.db")
}

pub(crate) fn sqlite(instance: &Instance, statement: &str) {
    let run = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
    let done = Command::new("python3").args(["-c", run]).arg(store(instance)).arg(statement).status().unwrap();
    assert!(done.success());
}

/// The sizes that were signed, in order.
fn checkpoint_sizes(instance: &Instance) -> Vec<u64> {
    let run = "import sqlite3,sys\nstore = sqlite3.connect(sys.argv[1])\n\
               for (note,) in store.execute('SELECT note FROM checkpoint ORDER BY place'): print(note.split()[1])";
    let said = Command::new("python3").args(["-c", run]).arg(store(instance)).output().unwrap();
    String::from_utf8(said.stdout).unwrap().lines().map(|size| size.parse().unwrap()).collect()
}

async fn sign(node: &Connection, draft: &Draft) -> Result<(), keyward::error::Error> {
    node.licensing().sign_document(draft.request("clusters/demo")).await.map(|_| ()).map_err(failed)
}

async fn serving(node: &Connection) -> bool {
    let request = HealthCheckRequest { service: "keyward.v1.Licensing".into() };
    let health = HealthClient::new(node.channel()).check(request).await.unwrap().into_inner();
    health.status() == ServingStatus::Serving
}

#[test]
fn the_log_is_signed_when_an_instance_is_made_at_each_start_and_at_each_end() {
    let mut instance = Instance::new();
    let made = anchor(&instance).size;
    instance.start();
    let started = anchor(&instance).size;
    assert!(started > made);
    assert_eq!(instance.stop(), Some(0));
    let stopped = anchor(&instance);
    assert!(stopped.size > started);
    instance.start();
    let log = instance.log();
    let last = usize::try_from(stopped.size).unwrap() - 1;
    assert_eq!(log[last]["event"]["type"], "log-closed", "nothing of a run stays unsigned");
}

#[test]
fn the_log_is_signed_at_its_pace_and_not_while_it_does_not_grow() {
    let mut instance = Instance::new();
    set(&instance, "checkpoint_seconds", "1");
    instance.start();
    let size = anchor(&instance).size;
    let request = instance.path("request.xml");
    let args = ["cluster", "create", "demo", "--url", "https://demo.example.test", "--offline", "--request"];
    instance.cli(&[&args[..], &[request.to_str().unwrap()]].concat()).good();
    wait_until("no checkpoint after a second", || anchor(&instance).size > size);
    let made = || fs::metadata(anchor_file(&instance)).unwrap().modified().unwrap();
    wait_until("signed again and again for nothing", || {
        let before = made();
        std::thread::sleep(Duration::from_millis(2500));
        made() == before
    });
}

#[test]
fn a_store_that_is_older_than_its_anchor_is_refused() {
    let mut instance = Instance::new();
    let older = instance.path("older.db");
    fs::copy(store(&instance), &older).unwrap();
    let old_anchor = instance.path("older.anchor");
    fs::copy(anchor_file(&instance), &old_anchor).unwrap();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    let newer = instance.path("newer.db");
    fs::rename(store(&instance), &newer).unwrap();

    // Put back as it was, with all that it says of itself.
    fs::copy(&older, store(&instance)).unwrap();
    let said = instance.serve_fails().refused(74, "STORE_REWOUND");
    assert!(said.contains("are lost") && said.contains("keyward audit re-anchor"), "{said}");
    assert_eq!(fs::read(store(&instance)).unwrap().len(), fs::read(&older).unwrap().len());

    // Nor is it taken once it has grown past the anchor: then it is another log.
    let new_anchor = fs::read(anchor_file(&instance)).unwrap();
    fs::copy(&old_anchor, anchor_file(&instance)).unwrap();
    for _ in 0..2 {
        instance.start();
        assert_eq!(instance.stop(), Some(0));
    }
    fs::write(anchor_file(&instance), &new_anchor).unwrap();
    let said = instance.serve_fails().refused(74, "STORE_FORKED");
    assert!(said.contains("a fork"), "{said}");

    // The store that the anchor was signed over serves on.
    fs::rename(&newer, store(&instance)).unwrap();
    instance.start();
    instance.log();
}

#[test]
fn a_store_without_the_log_and_a_missing_or_changed_anchor_are_refused() {
    let (instance, other) = (Instance::new(), Instance::new());
    let own = fs::read(store(&instance)).unwrap();
    fs::copy(store(&other), store(&instance)).unwrap();
    let said = instance.serve_fails().refused(74, "LOG_MISSING");
    assert!(said.contains("the store has no log"), "{said}");
    fs::write(store(&instance), own).unwrap();

    let anchor = fs::read_to_string(anchor_file(&instance)).unwrap();
    let size = anchor.lines().nth(1).unwrap().to_owned();
    let changed = anchor.replacen(&format!("\n{size}\n"), "\n1\n", 1);
    for (what, text) in [("cut", anchor[..anchor.len() - 4].to_owned()), ("empty", String::new()), ("changed", changed)]
    {
        fs::write(anchor_file(&instance), text).unwrap();
        let said = instance.serve_fails().refused(78, "ANCHOR_INVALID");
        assert!(said.contains("audit.anchor"), "{what}: {said}");
    }
    fs::copy(anchor_file(&other), anchor_file(&instance)).unwrap();
    instance.serve_fails().refused(78, "ANCHOR_INVALID");
    fs::remove_file(anchor_file(&instance)).unwrap();
    let said = instance.serve_fails().refused(78, "ANCHOR_INVALID");
    assert!(said.contains("is missing"), "{said}");
}

#[test]
fn going_on_from_an_older_store_is_one_persons_decision_and_stands_in_the_log() {
    let mut instance = Instance::new();
    let older = fs::read(store(&instance)).unwrap();
    instance.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    let given_up = fs::read_to_string(anchor_file(&instance)).unwrap();
    fs::write(store(&instance), &older).unwrap();

    let shown = instance.json(&["audit", "re-anchor"]);
    assert_eq!((shown["reason"].as_str(), shown["anchor"].as_str()), (Some("STORE_REWOUND"), Some(&*given_up)));
    instance.serve_fails().refused(74, "STORE_REWOUND");
    let said = instance.cli(&["audit", "re-anchor", "--confirm", "yes"]).refused(65, "INVALID_ARGUMENT");
    assert!(said.contains(shown["confirm"].as_str().unwrap()), "{said}");
    assert_eq!(fs::read(store(&instance)).unwrap(), older, "nothing was written");
    instance.cli(&["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()]).good();

    instance.start();
    let log = instance.log();
    let found = events(&log, "re-anchored");
    assert_eq!(found.len(), 1);
    let record = found[0];
    assert_eq!((record["anchor"].as_str(), record["reason"].as_str()), (Some(&*given_up), Some("STORE_REWOUND")));
    assert!(record["agreed"].as_str().unwrap().contains("one local operator"), "{record}");
    assert_eq!(record["rule"], "operators-re-anchor");
    assert_eq!(instance.stop(), Some(0));
    instance.start();
}

#[test]
fn a_token_that_is_held_in_a_store_of_an_earlier_time_is_freed_only_together_with_going_on_from_it() {
    let mut instance = Instance::new();
    let pin = instance.data().join("pins/main.user");
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    instance.start_waiting();
    assert_eq!(instance.stop(), Some(0));
    let older = fs::read(store(&instance)).unwrap();
    fs::write(&pin, right).unwrap();
    instance.cli(&["token", "unlatch", "main"]).good();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    fs::write(store(&instance), &older).unwrap();

    for command in ["unlatch", "release"] {
        let said = instance.cli(&["token", command, "main"]).refused(74, "STORE_REWOUND");
        assert!(said.contains("audit re-anchor"), "{said}");
    }
    instance.cli(&["token", "probe", "main"]).refused(74, "STORE_REWOUND");
    assert_eq!(fs::read(store(&instance)).unwrap(), older, "nothing was written");
    let confirm = instance.json(&["audit", "re-anchor"])["confirm"].as_str().unwrap().to_owned();
    instance.cli(&["audit", "re-anchor", "--confirm", &confirm]).refused(69, "PIN_LATCHED");
    let confirm = instance.json(&["audit", "re-anchor"])["confirm"].as_str().unwrap().to_owned();
    instance.cli(&["audit", "re-anchor", "--confirm", &confirm, "--lift", "main"]).good();
    instance.start();
    let log = instance.log();
    assert_eq!(events(&log, "re-anchored").len(), 1);
    let states = events(&log, "token-state");
    assert!(states.iter().any(|event| event["state"] == "unlatched"), "{states:?}");
}

#[test]
fn a_lost_anchor_is_made_anew_by_a_person_only() {
    let mut instance = Instance::new();
    fs::remove_file(anchor_file(&instance)).unwrap();
    instance.serve_fails().refused(78, "ANCHOR_INVALID");
    let shown = instance.json(&["audit", "re-anchor"]);
    assert_eq!((shown["reason"].as_str(), &shown["anchor"]), (Some("ANCHOR_INVALID"), &Value::Null));
    instance.cli(&["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()]).good();
    instance.start();
    assert_eq!(events(&instance.log(), "re-anchored").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_changed_in_the_store_are_found_before_they_are_signed_and_nothing_is_signed_after() {
    let instance = Instance::with_cluster();
    let (node, draft) = (instance.connect("node-1").await, instance.draft("demo"));
    sign(&node, &draft).await.unwrap();
    let seq = anchor(&instance).size;
    sqlite(
        &instance,
        &format!("UPDATE entry SET record = CAST(replace(CAST(record AS TEXT), 'a', 'b') AS BLOB) WHERE seq = {seq}"),
    );
    let out = instance.path("export");
    let said = instance.cli(&["audit", "export", "--out", out.to_str().unwrap()]).refused(74, "RECORD_BROKEN");
    assert!(said.contains("not those that were committed"), "{said}");
    assert_eq!(sign(&node, &draft).await.unwrap_err().reason(), Reason::RecordBroken);
    let end = Instant::now() + PATIENCE;
    while serving(&node).await {
        assert!(Instant::now() < end, "readiness stays true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_anchor_cannot_be_written_signing_ends_in_time_and_begins_again_by_itself() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let (disk, away) = (instance.path("disk"), instance.path("away"));
    fs::create_dir(&disk).unwrap();
    fs::rename(anchor_file(&instance), disk.join("anchor")).unwrap();
    set(&instance, "anchor", &format!("\"{}\"", disk.join("anchor").display()));
    set(&instance, "checkpoint_records", "2");
    instance.start();
    let node = instance.connect("node-1").await;
    fs::rename(&disk, &away).unwrap();
    let end = Instant::now() + PATIENCE;
    let mut signed = 0;
    let refused = loop {
        match sign(&node, &draft).await {
            Ok(()) => signed += 1,
            Err(fault) => break fault,
        }
        assert!(Instant::now() < end, "signed {signed} documents without a checkpoint");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(refused.reason(), Reason::CheckpointOverdue, "{refused:?}");
    assert!(signed > 0 && refused.message().contains("cannot be written"), "{refused:?}");
    while serving(&node).await {
        assert!(Instant::now() < end, "readiness stays true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Nothing comes to the log any more, and the try to write the anchor is made each second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    fs::rename(&away, &disk).unwrap();
    while sign(&node, &draft).await.is_err() {
        assert!(Instant::now() < end, "it does not begin again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let end = Instant::now() + PATIENCE;
    while !serving(&node).await {
        assert!(Instant::now() < end, "readiness stays false");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    instance.log();
    let sizes = checkpoint_sizes(&instance);
    assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "a size was signed twice: {sizes:?}");
}

#[test]
fn a_log_of_which_nothing_says_any_more_where_it_was_signed_goes_on_by_a_persons_decision_only() {
    let mut instance = Instance::new();
    fs::remove_file(anchor_file(&instance)).unwrap();
    sqlite(&instance, "DELETE FROM checkpoint");
    let said = instance.serve_fails().refused(78, "ANCHOR_INVALID");
    assert!(said.contains("is missing"), "{said}");
    // Nor if the store looks like one of an early version, which had neither.
    sqlite(&instance, "DELETE FROM subtree");
    sqlite(&instance, "UPDATE log SET frontier = x''");
    instance.serve_fails().refused(78, "ANCHOR_INVALID");
    re_anchored(&instance, "ANCHOR_INVALID");
    instance.start();
    assert!(anchor(&instance).size > 0);
    assert_eq!(events(&instance.log(), "re-anchored").len(), 1);
}

/// Has a person decide that the log goes on as it is.
fn re_anchored(instance: &Instance, why: &str) {
    let shown = instance.json(&["audit", "re-anchor"]);
    assert_eq!(shown["reason"], why, "{shown}");
    instance.cli(&["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()]).good();
}

#[test]
fn a_damaged_checkpoint_in_the_store_is_named_and_given_up_by_a_person_only() {
    let mut instance = Instance::new();
    for damage in ["'nonsense'", "replace(note, 'chain ', 'chain 0')", "substr(note, 1, length(note) - 9)"] {
        sqlite(
            &instance,
            &format!("UPDATE checkpoint SET note = {damage} WHERE place = (SELECT max(place) FROM checkpoint)"),
        );
        let said = instance.serve_fails().refused(74, "CHECKPOINT_BROKEN");
        assert!(said.contains("the store's last checkpoint") && said.contains("re-anchor"), "{said}");
        re_anchored(&instance, "CHECKPOINT_BROKEN");
        instance.start();
        assert_eq!(instance.stop(), Some(0));
    }
}

/// Appends a record to a stopped store, whose head and tree then are those of a log that ends with it.
const APPENDED: &str = r#"
import hashlib, sqlite3, sys
store = sqlite3.connect(sys.argv[1])
log, size, chain, frontier = store.execute("SELECT log_id, size, chain, frontier FROM log").fetchone()
last = bytes(store.execute("SELECT record FROM entry WHERE seq = ?", (size - 1,)).fetchone()[0]).decode()
event, prev, time = sys.argv[2], sys.argv[3] or chain.hex(), last.split('"time":"')[1].split('"')[0]
record = f'{{"event":{event},"log":"{log}","prev":"{prev}","seq":{size},"time":"{time}","v":1}}'.encode()
assert size % 256 < 255
subtrees = [frontier[at:at + 32] for at in range(0, len(frontier), 32)]
node, rest = hashlib.sha256(b"\0" + record).digest(), size
while rest % 2:
    node, rest = hashlib.sha256(b"\1" + subtrees.pop() + node).digest(), rest // 2
store.execute("INSERT INTO entry VALUES (?, ?)", (size, record))
store.execute("UPDATE log SET size = ?, chain = ?, frontier = ?",
              (size + 1, hashlib.sha256(record).digest(), b"".join(subtrees) + node))
store.commit()
"#;

#[test]
fn records_that_do_not_follow_from_each_other_are_never_signed() {
    let zeros = "0".repeat(64);
    let outcome = r#"{"intent":0,"result":{"is":"done","result":""},"type":"outcome"}"#;
    for (event, prev, words) in [
        (r#"{"type":"log-closed"}"#, zeros.as_str(), "does not carry the hash of the record before it"),
        (outcome, "", "which is no intent"),
    ] {
        let mut instance = Instance::new();
        instance.start();
        assert_eq!(instance.stop(), Some(0));
        let signed = anchor(&instance).size;
        let mut forged = Command::new("python3");
        forged.args(["-c", APPENDED]).arg(store(&instance)).args([event, prev]);
        assert!(forged.status().unwrap().success());
        let said = instance.serve_fails().refused(74, "RECORD_BROKEN");
        assert!(said.contains(words), "{said}");
        assert_eq!(anchor(&instance).size, signed);
    }
}

#[test]
fn the_pace_of_checkpoints_is_bounded() {
    let instance = Instance::new();
    set(&instance, "checkpoint_records", "0");
    set(&instance, "checkpoint_seconds", "86401");
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("checkpoint_records: 1 to") && said.contains("checkpoint_seconds: 1 to 86400"), "{said}");
}
