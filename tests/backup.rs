//! Backups made beside a running service, and data directories made of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::load::{Load, all_recorded};
use crate::kit::postgres::Postgres;
use crate::kit::{Instance, Ran, events, keyward};

fn backup(instance: &Instance, name: &str) -> PathBuf {
    let out = instance.path(name);
    instance.cli(&["backup", "--out", out.to_str().unwrap()]).good();
    out
}

fn restore(backup: &Path, to: &Path, checkpoint: &Path, trust: &Path) -> Ran {
    restore_with(backup, to, checkpoint, trust, &[])
}

fn restore_unsigned(backup: &Path, to: &Path, checkpoint: &Path, trust: &Path) -> Ran {
    restore_with(backup, to, checkpoint, trust, &["--unsigned"])
}

fn restore_with(backup: &Path, to: &Path, checkpoint: &Path, trust: &Path, more: &[&str]) -> Ran {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (checkpoint, trust) = (text(checkpoint), text(trust));
    let args = ["restore", &text(backup), &text(to), "--checkpoint", &checkpoint, "--trust", &trust];
    keyward(&[&args[..], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_becomes_an_instance_with_every_record_up_to_it() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    let before = Load::start(&instance, &draft, 0, 4).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let answered = before.end().await;
    let checkpoint = instance.export().join("audit.checkpoint");
    let during = Load::start(&instance, &draft, 1, 4).await;
    let made = backup(&instance, "backup");
    during.end().await;
    // No PIN, no token, and nothing that the list does not name.
    let mut names: Vec<_> = fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["audit.trust", "backup.json", "backup.tlog-proof", "keyward.db", "keyward.toml", "tls"]);
    let trust = instance.data().join("audit.trust");
    assert_eq!(instance.stop(), Some(0));

    let gone = instance.path("gone");
    fs::rename(instance.data(), &gone).unwrap();
    restore(&made, &instance.data(), &checkpoint, &gone.join("audit.trust")).good();
    assert!(!trust.with_file_name("pins").exists());
    for part in ["token", "pins"] {
        let copied = Command::new("cp").arg("-a").arg(gone.join(part)).arg(instance.data()).status().unwrap();
        assert!(copied.success());
    }
    instance.start();
    let node = instance.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    let log = instance.log();
    all_recorded(&log, &answered);
    // The log says that it was restored, of what, and by whom, right behind the backup.
    let list: serde_json::Value = serde_json::from_slice(&fs::read(made.join("backup.json")).unwrap()).unwrap();
    let records = usize::try_from(list["head"]["size"].as_u64().unwrap()).unwrap();
    let restored = &log[records]["event"];
    assert_eq!((&restored["type"], &restored["sha256"]), (&"restored".into(), &list["head"]["chain"]), "{restored}");
    assert_eq!((&restored["caller"]["name"], &restored["records"]), (&"local-operator".into(), &records.into()));
    assert_eq!(restored["checkpoint"], fs::read_to_string(&checkpoint).unwrap());
    assert!(restored["signed"].as_str().unwrap().starts_with("20"), "{restored}");
    assert_eq!(events(&log, "restored").len(), 1);
}

#[test]
fn a_backup_that_lacks_signed_records_or_was_changed_is_not_restored() {
    let mut instance = Instance::with_cluster();
    fs::copy(instance.export().join("audit.checkpoint"), instance.path("early.checkpoint")).unwrap();
    let early = backup(&instance, "early");
    let trust = instance.data().join("audit.trust");
    let checkpoint = instance.export().join("audit.checkpoint");
    let late = backup(&instance, "late");
    let to = instance.path("restored");
    let said = restore(&early, &to, &checkpoint, &trust).refused(74, "STORE_REWOUND");
    assert!(said.contains("were signed for") && !to.exists(), "{said}");
    restore(&late, &to, &checkpoint, &trust).good();
    restore(&late, &to, &checkpoint, &trust).refused(78, "DATA_DIRECTORY");

    // A byte of a file, and a row with the list made to agree.
    let other = instance.path("other");
    let config = late.join("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n")).unwrap();
    let said = restore(&late, &other, &checkpoint, &trust).refused(74, "RECORD_BROKEN");
    assert!(said.contains("keyward.toml"), "{said}");
    fs::write(&config, text).unwrap();
    let script = "import sqlite3,sys,hashlib,json; db,l=sys.argv[1:]; d=sqlite3.connect(db); \
                  d.execute(\"UPDATE object SET body = CAST(replace(CAST(body AS TEXT), 'demo', 'dem0') AS BLOB) WHERE kind = 'cluster'\"); \
                  d.commit(); d.close(); m=json.load(open(l)); \
                  m['files']['keyward.db']=hashlib.sha256(open(db,'rb').read()).hexdigest(); \
                  json.dump(m, open(l,'w'))";
    let (db, list) = (late.join("keyward.db"), late.join("backup.json"));
    assert!(Command::new("python3").args(["-c", script]).arg(db).arg(list).status().unwrap().success());
    let said = restore(&late, &other, &checkpoint, &trust).refused(74, "RECORD_BROKEN");
    assert!(said.contains("not the one that was signed for"), "{said}");
    // With the proof of another list, and with none.
    fs::copy(early.join("backup.tlog-proof"), late.join("backup.tlog-proof")).unwrap();
    restore(&late, &other, &checkpoint, &trust).refused(74, "RECORD_BROKEN");
    restore_unsigned(&late, &other, &checkpoint, &trust).refused(74, "RECORD_BROKEN");
    fs::remove_file(late.join("backup.tlog-proof")).unwrap();
    let said = restore(&late, &other, &checkpoint, &trust).refused(65, "SIGNATURE_INVALID");
    assert!(said.contains("nobody signed for this backup") && said.contains("--unsigned"), "{said}");
    restore_unsigned(&late, &other, &checkpoint, &trust).refused(74, "OBJECT_ALTERED");
    assert!(!other.exists(), "whole or not at all");

    // A checkpoint of another log, or signed by another's key.
    let stranger = Instance::with_cluster();
    let foreign = stranger.export().join("audit.checkpoint");
    let (foreign_trust, fresh) = (stranger.data().join("audit.trust"), backup(&instance, "fresh"));
    restore(&fresh, &other, &foreign, &foreign_trust).refused(74, "LOG_MISSING");
    restore(&fresh, &other, &foreign, &trust).refused(65, "SIGNATURE_INVALID");
    assert_eq!(instance.stop(), Some(0));

    // Another past, which is signed for as well: the instance went on from a copy of an earlier time.
    let (kept, signed) = (instance.path("kept"), instance.path("signed"));
    fs::copy(&checkpoint, &signed).unwrap();
    fs::rename(instance.data(), &kept).unwrap();
    restore(&early, &instance.data(), &instance.path("early.checkpoint"), &kept.join("audit.trust")).good();
    for part in ["token", "pins"] {
        assert!(Command::new("cp").arg("-a").arg(kept.join(part)).arg(instance.data()).status().unwrap().success());
    }
    instance.start();
    instance.node("demo", "node-2");
    instance.export();
    let forked = backup(&instance, "forked");
    let said = restore(&forked, &other, &signed, &trust).refused(74, "STORE_FORKED");
    assert!(said.contains("others than those that were signed"), "{said}");
    assert!(!other.exists());
    assert_eq!(instance.stop(), Some(0));
}

#[test]
fn the_last_backup_is_restored_beside_the_anchor_once_a_person_says_how_many_records_are_lost() {
    let mut instance = Instance::with_cluster();
    let (given, to) = (instance.path("given.trust"), instance.path("restored"));
    fs::copy(instance.data().join("audit.trust"), &given).unwrap();
    // The trust file that was given out before the key was rotated still opens what was signed since.
    instance.cli(&["audit", "rotate-key"]).good();
    let made = backup(&instance, "last");
    instance.node("demo", "node-2");
    assert_eq!(instance.stop(), Some(0));
    let gone = instance.path("gone");
    fs::rename(instance.data(), &gone).unwrap();
    let anchor = gone.join("audit.anchor");
    let list: serde_json::Value = serde_json::from_slice(&fs::read(made.join("backup.json")).unwrap()).unwrap();
    let records = list["head"]["size"].as_u64().unwrap();
    let text = fs::read_to_string(&anchor).unwrap();
    let lost = text.lines().nth(1).unwrap().parse::<u64>().unwrap() - records;
    let said = restore(&made, &to, &anchor, &given).refused(74, "STORE_REWOUND");
    assert!(said.contains(&format!("--lose {lost}")), "{said}");
    let other = (lost + 1).to_string();
    restore_with(&made, &to, &anchor, &given, &["--lose", &other]).refused(74, "STORE_REWOUND");
    let lost = lost.to_string();
    assert!(restore_with(&made, &to, &anchor, &given, &["--lose", &lost, "--unsigned"]).code != Some(0));
    assert!(!to.exists());
    restore_with(&made, &instance.data(), &anchor, &given, &["--lose", &lost]).good();
    for part in ["token", "pins"] {
        assert!(Command::new("cp").arg("-a").arg(gone.join(part)).arg(instance.data()).status().unwrap().success());
    }
    instance.start();
    let log = instance.log();
    let restored = &log[usize::try_from(records).unwrap()]["event"];
    assert_eq!((&restored["type"], &restored["checkpoint"]), (&"restored".into(), &text.into()), "{restored}");
    assert_eq!(instance.stop(), Some(0));
    instance.cli(&["audit", "verify"]).good();
}

#[test]
fn a_service_that_does_not_run_is_backed_up_without_a_signature_and_that_is_said() {
    let mut instance = Instance::new();
    let (trust, anchor) = (instance.data().join("audit.trust"), instance.data().join("audit.anchor"));
    let (out, to) = (instance.path("stopped"), instance.path("restored"));
    let args = ["backup", "--out", out.to_str().unwrap()];
    let ran = instance.cli(&args);
    assert!(ran.code != Some(0) && ran.stderr.contains("--unsigned") && !out.exists(), "{ran:?}");
    let made = instance.json(&[&args[..], &["--unsigned"]].concat());
    assert_eq!(made["signed"], false);
    restore(&out, &to, &anchor, &trust).refused(65, "SIGNATURE_INVALID");
    restore_unsigned(&out, &to, &anchor, &trust).good();
    let gone = instance.path("gone");
    fs::rename(instance.data(), &gone).unwrap();
    fs::rename(&to, instance.data()).unwrap();
    for part in ["token", "pins"] {
        assert!(Command::new("cp").arg("-a").arg(gone.join(part)).arg(instance.data()).status().unwrap().success());
    }
    instance.start();
    let log = instance.log();
    assert_eq!(events(&log, "restored").len(), 1);
    assert!(events(&log, "restored")[0]["signed"].is_null());
}

#[test]
fn a_database_is_backed_up_with_its_own_tools() {
    let server = Postgres::start();
    let instance = Instance::in_database(&server, "a");
    let out = instance.path("backup");
    let said = instance.cli(&["backup", "--out", out.to_str().unwrap()]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("docs/operations.md") && !out.exists(), "{said}");
}
