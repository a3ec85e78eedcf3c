//! Logs that were tampered with: each way is told apart and named, by the verifier and by the one in Python.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keyward::audit::chain::{ChainHash, Head};
use keyward::audit::checkpoint::{Checkpoint, OtherHead};
use keyward::audit::merkle::{Frontier, TreeHash};
use keyward::audit::note::Note;
use keyward::audit::record::{ActNote, Event, Moment, OutcomeNote, Record};
use keyward::audit::trust::Trust;
use keyward::audit::verify::{self, Finding, Report, Verifier};
use keyward::caller::CallerNote;
use keyward::grpc::client::Connection;
use keyward::grpc::v1;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _};

use crate::kit::signer::Signer;
use crate::kit::{Instance, keyward, python};

const LOG: &str = "f0e4c2f7-6c58-4a1c-9b1f-0e5c0d8b2f11";

/// The lines of a small log: opened, acts with their outcomes, a refusal, a change.
fn lines(log: &str, records: usize) -> Vec<Vec<u8>> {
    let mut head = Head::empty(log);
    (0..records)
        .map(|n| {
            let caller = CallerNote { uid: Some(7), ..CallerNote::named("local-operator") };
            let act = ActNote::SignDocument {
                key: "clusters/a/keys/slc-1".into(),
                kind: "use-license".into(),
                guid: format!("{{{n}}}"),
                issued: "2026-11-24T09:30".into(),
                digest: "sha256:00".into(),
            };
            let event = match n {
                0 => Event::LogOpened { version: "1".into(), tokens: vec!["main: \u{e9} \"x\"".into()] },
                n if n % 3 == 1 => Event::Intent { caller, rule: "r".into(), act },
                n if n % 3 == 2 => {
                    Event::Outcome { intent: n as u64 - 1, result: OutcomeNote::Done { result: "c2ln".into() } }
                }
                n => Event::Changed { object: "key".into(), name: format!("k{n}"), version: 1, sha256: "00".into() },
            };
            let moment = Moment::of(1_700_000_000_000_000 + 1_000_000 * i64::try_from(n).unwrap());
            head.append(&event.bytes().unwrap(), &moment).unwrap().bytes
        })
        .collect()
}

/// The log with more records.
fn appended(lines: &[Vec<u8>], events: &[Event]) -> Vec<Vec<u8>> {
    let mut head = Head::empty(LOG);
    lines.iter().for_each(|line| head.follow(line).unwrap());
    let new = |event: &Event| head.append(&event.bytes().unwrap(), &Moment::of(1_800_000_000_000_000)).unwrap().bytes;
    lines.iter().cloned().chain(events.iter().map(new)).collect()
}

/// What a log's key would sign over these lines.
fn head_of(log: &str, lines: &[Vec<u8>], others: &[(&str, u64)]) -> Checkpoint {
    let mut tree = Frontier::default();
    lines.iter().for_each(|line| tree.append(TreeHash::leaf(line), |_, _, _| {}));
    let chain = lines.last().map_or(ChainHash::ZERO, |line| ChainHash::of(line));
    let others = others
        .iter()
        .map(|(log, size)| OtherHead { log: (*log).into(), size: *size, chain: ChainHash([7; 32]) })
        .collect();
    Checkpoint { log: log.into(), size: lines.len() as u64, root: tree.root(), chain, others }
}

/// The file of these lines.
fn file(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
}

fn verdict(file: &[u8], checkpoint: Option<&Checkpoint>) -> Report {
    verify::export(file, Verifier::new(checkpoint.cloned())).unwrap()
}

#[track_caller]
fn found(lines: &[Vec<u8>], checkpoint: &Checkpoint, finding: Finding, line: u64) {
    let report = verdict(&file(lines), Some(checkpoint));
    assert_eq!((report.finding, report.broken.as_ref().map(|broken| broken.line)), (finding, Some(line)), "{report:?}");
}

/// Writes the records anew with numbers and hashes that fit each other, from one place on: what a forger without the key
/// can do.
pub(crate) fn mended(lines: &[Vec<u8>], from: usize) -> Vec<Vec<u8>> {
    let mut out = lines[..from].to_vec();
    for line in &lines[from..] {
        let mut record: Value = serde_json::from_slice(line).unwrap();
        record["seq"] = out.len().into();
        record["prev"] = out.last().map_or("0".repeat(64), |before| ChainHash::of(before).to_string()).into();
        out.push(serde_json_canonicalizer::to_vec(&record).unwrap());
    }
    out
}

#[test]
fn an_untouched_log_is_good_and_without_a_checkpoint_never_called_complete() {
    for records in [0, 1, 2, 7, 9] {
        let lines = lines(LOG, records);
        let report = verdict(&file(&lines), Some(&head_of(LOG, &lines, &[])));
        assert_eq!((report.finding, report.complete, report.records), (Finding::Good, true, records as u64));
        let report = verdict(&file(&lines), None);
        assert_eq!((report.finding, report.complete), (Finding::Untrusted, false));
    }
}

#[test]
fn every_flipped_byte_of_every_field_is_found_and_called_an_edit() {
    let lines = lines(LOG, 7);
    let (whole, checkpoint) = (file(&lines), head_of(LOG, &lines, &[]));
    let last = whole.len() - lines[6].len() - 1;
    for (byte, flip) in (0..whole.len()).flat_map(|byte| [(byte, 0x01), (byte, 0x20), (byte, 0x80)]) {
        let mut changed = whole.clone();
        changed[byte] ^= flip;
        let report = verdict(&changed, Some(&checkpoint));
        let is_named = match report.finding {
            Finding::Edited => true,
            // The last record has none behind it that shows which of the two was changed.
            Finding::NotAsSigned => byte >= last,
            Finding::Torn => byte == whole.len() - 1,
            _ => false,
        };
        assert!(is_named, "byte {byte} flip {flip}: {report:?}\n{}", String::from_utf8_lossy(&changed));
    }
}

#[test]
fn deleted_inserted_moved_and_swapped_records_are_told_apart() {
    let lines = lines(LOG, 9);
    let checkpoint = head_of(LOG, &lines, &[]);
    for gone in 0..8 {
        let mut changed = lines.clone();
        changed.remove(gone);
        found(&changed, &checkpoint, Finding::Deleted, gone as u64 + 1);
    }
    let mut run = lines.clone();
    run.drain(3..6);
    found(&run, &checkpoint, Finding::Deleted, 4);

    for place in 0..9 {
        let mut doubled = lines.clone();
        doubled.insert(place, lines[place].clone());
        found(&doubled, &checkpoint, Finding::Inserted, place as u64 + 2);
    }
    let mut replayed = lines.clone();
    replayed.insert(6, lines[2].clone());
    found(&replayed, &checkpoint, Finding::Inserted, 7);
    let mut early = lines.clone();
    early.insert(2, lines[6].clone());
    found(&early, &checkpoint, Finding::Inserted, 3);
    // A forged record that fits, and one that fits but says what cannot be.
    for (copied, line) in [(3, 6), (2, 4)] {
        let mut forged = mended(&[&lines[..=copied], &lines[copied..=copied]].concat(), copied + 1);
        forged.extend_from_slice(&lines[copied + 1..]);
        found(&forged, &checkpoint, Finding::Inserted, line);
    }
    let mut garbage = lines.clone();
    garbage.insert(4, b"nothing".to_vec());
    found(&garbage, &checkpoint, Finding::Inserted, 5);

    for (a, b) in [(0, 1), (2, 3), (2, 7), (0, 8)] {
        let mut moved = lines.clone();
        moved.swap(a, b);
        found(&moved, &checkpoint, Finding::Reordered, a as u64 + 1);
    }
    // Swapped, and each given the number of its new place.
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    for place in [3, 4] {
        let mut record: Value = serde_json::from_slice(&swapped[place]).unwrap();
        record["seq"] = place.into();
        swapped[place] = serde_json_canonicalizer::to_vec(&record).unwrap();
    }
    found(&swapped, &checkpoint, Finding::Reordered, 4);
}

#[test]
fn what_a_forger_mends_to_the_end_is_not_what_was_signed() {
    let lines = lines(LOG, 9);
    let checkpoint = head_of(LOG, &lines, &[]);
    let mut edited = lines.clone();
    edited[3] = String::from_utf8(edited[3].clone()).unwrap().replace("\"k3\"", "\"k4\"").into_bytes();
    found(&mended(&edited, 3), &checkpoint, Finding::NotAsSigned, 9);
    // The last record alone can be changed without mending anything.
    let mut last = lines.clone();
    last[8] = String::from_utf8(last[8].clone()).unwrap().replace("c2ln", "c2lo").into_bytes();
    found(&last, &checkpoint, Finding::NotAsSigned, 9);
}

#[test]
fn a_cut_end_shows_by_the_checkpoint_and_a_torn_record_is_a_crash() {
    let lines = lines(LOG, 9);
    let checkpoint = head_of(LOG, &lines, &[]);
    found(&lines[..8], &checkpoint, Finding::Truncated, 9);
    found(&lines[..0], &checkpoint, Finding::Truncated, 1);
    assert_eq!(verdict(&file(&lines[..8]), None).finding, Finding::Untrusted, "nothing shows it without a checkpoint");
    let whole = file(&lines);
    for left in file(&lines[..8]).len() + 1..whole.len() {
        for checkpoint in [Some(&checkpoint), None] {
            let report = verdict(&whole[..left], checkpoint);
            assert_eq!((report.finding, report.records, report.broken), (Finding::Torn, 8, None), "{left} bytes left");
        }
    }
    let torn_early = verdict(&whole[..file(&lines[..5]).len() + 20], Some(&checkpoint));
    assert_eq!(torn_early.finding, Finding::Truncated, "more than the torn record is missing");
    found(&lines, &head_of(LOG, &lines[..8], &[]), Finding::Extended, 9);
}

#[test]
fn records_of_another_log_and_times_that_run_back_are_named() {
    let (lines, other) = (lines(LOG, 9), lines("another-log", 9));
    let checkpoint = head_of(LOG, &lines, &[]);
    let spliced = [&lines[..4], &other[4..]].concat();
    found(&spliced, &checkpoint, Finding::Spliced, 5);
    found(&other, &checkpoint, Finding::Spliced, 1);

    let mut back = lines.clone();
    back[5] = String::from_utf8(back[5].clone()).unwrap().replace("T22:13:25", "T22:13:20").into_bytes();
    let back = mended(&back, 5);
    found(&back, &head_of(LOG, &back, &[]), Finding::TimeBack, 6);

    let mut unopened = lines.clone();
    unopened.remove(4);
    let unopened = mended(&unopened, 4);
    found(&unopened, &head_of(LOG, &unopened, &[]), Finding::Unopened, 5);
}

#[test]
fn a_rewound_log_a_fork_and_a_missing_log_show_against_a_checkpoint_that_was_seen() {
    let lines = lines(LOG, 9);
    let against = |records: &[Vec<u8>], own: &Checkpoint, seen: Checkpoint| {
        let report = verify::export(file(records).as_slice(), Verifier::new(Some(own.clone())).seen(seen)).unwrap();
        report.finding
    };
    let (older, newer) = (head_of(LOG, &lines[..6], &[]), head_of(LOG, &lines, &[]));
    assert_eq!(against(&lines, &newer, older.clone()), Finding::Good);
    assert_eq!(against(&lines, &newer, newer.clone()), Finding::Good);
    assert_eq!(against(&lines[..6], &older, newer.clone()), Finding::Rewound, "whole and signed, but older");

    let mut edited = lines.clone();
    edited[3] = String::from_utf8(edited[3].clone()).unwrap().replace("\"k3\"", "\"k4\"").into_bytes();
    let other_past = mended(&edited, 3);
    let forked = head_of(LOG, &other_past, &[]);
    assert_eq!(against(&other_past, &forked, newer.clone()), Finding::Forked, "two heads of one size");
    assert_eq!(against(&other_past, &forked, older), Finding::Forked, "another past");
    let before = head_of(LOG, &lines[..3], &[]);
    assert_eq!(against(&other_past, &forked, before), Finding::Good, "they part later");

    let with = |others: &[(&str, u64)]| head_of(LOG, &lines, others);
    let earlier = head_of(LOG, &lines[..6], &[("log-b", 5)]);
    assert_eq!(against(&lines, &with(&[("log-b", 5)]), earlier.clone()), Finding::Good);
    assert_eq!(against(&lines, &with(&[]), earlier.clone()), Finding::LogMissing);
    assert_eq!(against(&lines, &with(&[("log-b", 4)]), earlier.clone()), Finding::LogMissing);
    assert_eq!(against(&lines, &with(&[("log-c", 5)]), earlier), Finding::LogMissing);
    assert_eq!(against(&lines, &newer, head_of("another-log", &lines, &[])), Finding::Spliced);
}

/// Files of an export in a directory.
struct Export {
    directory: tempfile::TempDir,
}

impl Export {
    fn new(lines: &[Vec<u8>], note: &Note, trust: &Trust) -> Self {
        let export = Export { directory: tempfile::tempdir().unwrap() };
        fs::write(export.path("audit.jsonl"), file(lines)).unwrap();
        fs::write(export.path("audit.checkpoint"), note.to_string()).unwrap();
        fs::write(export.path("audit.trust"), trust.to_string()).unwrap();
        export
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What both verifiers say: exit codes, and the finding of ours.
    fn verdicts(&self, more: &[&str]) -> (Option<i32>, String, Option<i32>) {
        both(self.directory.path(), more)
    }
}

fn both(directory: &Path, more: &[&str]) -> (Option<i32>, String, Option<i32>) {
    let [records, checkpoint, trust] =
        ["audit.jsonl", "audit.checkpoint", "audit.trust"].map(|name| directory.join(name));
    let (file, keys) = (records.to_str().unwrap(), trust.to_str().unwrap());
    let ours = keyward(&[&["audit", "verify", file, "--trust", keys, "--output", "json"], more].concat());
    let finding = serde_json::from_str::<Value>(&ours.stdout).map_or(Value::Null, |report| report["finding"].clone());
    let (c, t) = (Path::new("--checkpoint"), Path::new("--trust"));
    let theirs = python("verify_audit.py", &[&*records, c, &*checkpoint, t, &*trust]);
    (ours.code, finding.as_str().unwrap_or_default().to_owned(), theirs.code)
}

/// A person's decision that gives up so many checkpoints.
pub(crate) fn re_anchored(checkpoints: Option<u64>) -> Event {
    let text = String::new;
    Event::ReAnchored {
        caller: CallerNote::service(),
        rule: text(),
        agreed: text(),
        reason: text(),
        message: text(),
        anchor: text(),
        checkpoints,
    }
}

#[test]
fn both_verifiers_agree_on_exports_that_were_tampered_with() {
    let (lines, signer) = (lines(LOG, 9), Signer::new(LOG));
    let trust = signer.trust(LOG);
    let note = signer.sign(head_of(LOG, &lines, &[("log-b", 5)]).note().unwrap());
    let with = |lines: &[Vec<u8>]| Export::new(lines, &note, &trust).verdicts(&[]);
    assert_eq!(with(&lines), (Some(0), "good".into(), Some(0)));
    let mut changed = lines.clone();
    changed[3][10] ^= 1;
    assert_eq!(with(&changed), (Some(1), "edited".into(), Some(1)));
    let mut deleted = lines.clone();
    deleted.remove(4);
    assert_eq!(with(&deleted), (Some(1), "deleted".into(), Some(1)));
    assert_eq!(with(&mended(&deleted, 4)[..]), (Some(1), "unopened".into(), Some(1)));
    assert_eq!(with(&lines[..8]), (Some(1), "truncated".into(), Some(1)));
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    assert_eq!(with(&swapped), (Some(1), "reordered".into(), Some(1)));

    // Another key, and a checkpoint whose text was changed under the right one.
    let foreign = Signer::new(LOG).sign(head_of(LOG, &lines, &[]).note().unwrap());
    assert_eq!(Export::new(&lines, &foreign, &trust).verdicts(&[]), (Some(1), "foreign-key".into(), Some(1)));
    let text = note.to_string().replacen("\n9\n", "\n8\n", 1);
    let edited = Export::new(&lines[..8], &text.parse().unwrap(), &trust).verdicts(&[]);
    assert_eq!(edited, (Some(1), "checkpoint-edited".into(), Some(1)));
    let other = Signer::new("another-log");
    let spliced = other.sign(head_of("another-log", &lines, &[]).note().unwrap());
    assert_eq!(Export::new(&lines, &spliced, &trust).verdicts(&[]), (Some(1), "spliced".into(), Some(1)));

    // A log that tells of another one, which its checkpoint does not know, or knows shorter; a person may give it up.
    let told = |seq| Event::OtherLog { log: "log-b".into(), state: "opened".into(), seq, sha256: "0".repeat(64) };
    let with_others = |events: &[Event], others: &[(&str, u64)]| {
        let lines = appended(&lines, events);
        let note = signer.sign(head_of(LOG, &lines, others).note().unwrap());
        Export::new(&lines, &note, &trust).verdicts(&[])
    };
    assert_eq!(with_others(&[told(4)], &[("log-b", 5)]), (Some(0), "good".into(), Some(0)));
    assert_eq!(with_others(&[told(4), told(2)], &[("log-b", 4)]), (Some(1), "log-missing".into(), Some(1)));
    assert_eq!(with_others(&[told(4)], &[("log-c", 9)]), (Some(1), "log-missing".into(), Some(1)));
    assert_eq!(with_others(&[told(4), re_anchored(None)], &[]), (Some(0), "good".into(), Some(0)));

    // An older state that is whole, found out by a checkpoint that somebody kept.
    let older = signer.sign(head_of(LOG, &lines[..6], &[]).note().unwrap());
    let rewound = Export::new(&lines[..6], &older, &trust);
    assert_eq!(rewound.verdicts(&[]).1, "good", "nothing in it shows it");
    fs::write(rewound.path("kept"), note.to_string()).unwrap();
    let (code, finding, _) = rewound.verdicts(&["--seen", rewound.path("kept").to_str().unwrap()]);
    assert_eq!((code, finding.as_str()), (Some(1), "rewound"));
}

#[test]
fn exports_of_every_released_version_verify_with_both_verifiers() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = top.join("tests/golden");
    let (mut versions, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(&golden).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(version) = name.strip_prefix("audit-") {
            assert_eq!(both(&directory, &[]), (Some(0), "good".into(), Some(0)), "{version}");
            let records = fs::read_to_string(directory.join("audit.jsonl")).unwrap();
            kinds.extend(records.lines().map(|line| Record::read(line.as_bytes()).unwrap().event.kind()));
            versions.insert(version.to_owned());
        }
    }
    assert!(versions.contains("0.1.0"), "{versions:?}");
    // What stands in them is still documented, and they had every kind of their time.
    let documented = fs::read_to_string(top.join("docs/audit.md")).unwrap();
    let rows = documented.split("### Kinds of event").nth(1).unwrap().split("`act.do`").next().unwrap();
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert!(kinds.is_subset(&rows.collect()) && kinds.len() >= 16, "{kinds:?}");
}

#[test]
fn an_auditor_checks_an_export_with_sha256sum_and_openssl() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = top.join("tests/golden/audit-0.1.0");
    let by_hand = |directory: &Path| {
        let script = top.join("examples/audit_by_hand.sh");
        std::process::Command::new(script).args([directory, &golden.join("audit.trust")]).output().unwrap()
    };
    let good = by_hand(&golden);
    assert!(
        good.status.success()
            && good.stdout.ends_with(b"good: 56 records of keyward/log/857f21b7-1799-4c0f-b485-7e787c62ee70\n"),
        "{good:?}"
    );
    let copy = tempfile::tempdir().unwrap();
    for (file, from, to) in [
        ("audit.jsonl", "\"uid\":0", "\"uid\":1"),
        ("audit.checkpoint", "\n56\n", "\n55\n"),
        ("audit.checkpoint", "kUoO4DBE", "kUoO4DBF"),
    ] {
        for name in ["audit.jsonl", "audit.checkpoint"] {
            fs::copy(golden.join(name), copy.path().join(name)).unwrap();
        }
        let text = fs::read_to_string(golden.join(file)).unwrap();
        assert!(text.contains(from));
        fs::write(copy.path().join(file), text.replacen(from, to, 1)).unwrap();
        assert_eq!(by_hand(copy.path()).status.code(), Some(1), "{file}: {to}");
    }
}

/// What the verifier finds in the store of a stopped service after its database was changed by hand.
fn found_in_store(instance: &Instance, statements: &str) -> String {
    let database = instance.data().join("keyward.db");
    let before = fs::read(&database).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut connection = sqlx::SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(statements.to_owned())).await.unwrap();
        connection.close().await.unwrap();
    });
    let ran = instance.cli(&["audit", "verify", "--output", "json"]);
    let report = serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|_| panic!("{statements} {ran:#?}"));
    assert_eq!(ran.code, Some(i32::from(!report["broken"].is_null())), "{ran:#?}");
    for left in ["keyward.db-wal", "keyward.db-shm"] {
        let _ = fs::remove_file(instance.data().join(left));
    }
    fs::write(&database, before).unwrap();
    report["finding"].as_str().unwrap().to_owned()
}

#[test]
fn a_database_that_was_changed_by_hand_is_found_out_and_each_way_is_named() {
    let mut instance = Instance::with_cluster();
    assert_eq!(instance.cli(&["audit", "verify"]).code, Some(3), "a service holds it");
    assert_eq!(instance.stop(), Some(0));
    // Among the last records it shows when the store is opened.
    let edit = "UPDATE entry SET record = CAST(replace(record, '\"seq\":9,', '\"seq\":9, ') AS BLOB) WHERE seq = 9";
    assert_eq!(found_in_store(&instance, edit), "store-broken");
    // More records than are looked at then.
    instance.start();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let operator = Connection::operator(&instance.data().join("operator.sock")).await.unwrap();
        for n in 0..160 {
            let (parent, node_id) = ("clusters/demo".to_owned(), format!("n-{n}"));
            let invite = v1::InviteNodeRequest { parent, node_id, ..Default::default() };
            operator.nodes().invite_node(invite).await.unwrap();
        }
    });
    assert_eq!(instance.stop(), Some(0));
    for (statements, finding) in [
        ("SELECT 1", "good"),
        ("UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0') WHERE place = 1", "checkpoint-edited"),
        ("UPDATE checkpoint SET note = replace(note, '=', '') WHERE place = 0", "checkpoint-edited"),
        (
            "UPDATE checkpoint SET note = 'nothing' WHERE place = (SELECT max(place) FROM checkpoint)",
            "checkpoint-edited",
        ),
        ("DELETE FROM checkpoint WHERE place = 1", "checkpoint-missing"),
        ("DELETE FROM checkpoint WHERE place = (SELECT max(place) FROM checkpoint)", "checkpoint-missing"),
        ("DELETE FROM checkpoint", "checkpoint-missing"),
        (edit, "edited"),
        ("DELETE FROM entry WHERE seq = 4", "deleted"),
        ("DELETE FROM entry WHERE seq = 0", "deleted"),
        ("UPDATE entry SET record = (SELECT record FROM entry WHERE seq = 7) WHERE seq = 8", "inserted"),
        (
            "UPDATE entry SET seq = -1 WHERE seq = 5; UPDATE entry SET seq = 5 WHERE seq = 6; \
             UPDATE entry SET seq = 6 WHERE seq = -1",
            "reordered",
        ),
        (
            "UPDATE object SET body = CAST(replace(body, '\"node\"', '\"operator\"') AS BLOB) WHERE kind = 'principal'",
            "row-edited",
        ),
        ("UPDATE object SET body = CAST(replace(body, 'active', 'archived') AS BLOB) WHERE kind = 'key'", "row-edited"),
        ("UPDATE object SET version = version + 1 WHERE kind = 'cluster'", "row-edited"),
        ("DELETE FROM object WHERE kind = 'certificate'", "row-missing"),
        (
            "INSERT INTO object SELECT kind, name || 'x', version, body FROM object WHERE kind = 'principal'",
            "row-unrecorded",
        ),
    ] {
        assert_eq!(found_in_store(&instance, statements), finding, "{statements}");
    }
    instance.start();
    instance.log();
}

#[test]
fn a_store_of_an_earlier_time_and_an_anchor_that_is_gone_or_another_are_found_out_by_what_stands_beside_the_store() {
    let mut instance = Instance::new();
    let (database, anchor) = (instance.data().join("keyward.db"), instance.data().join("audit.anchor"));
    let older = fs::read(&database).unwrap();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    assert_eq!(found_in_store(&instance, "SELECT 1"), "good");
    let newer = fs::read(&database).unwrap();
    fs::write(&database, older).unwrap();
    assert_eq!(found_in_store(&instance, "SELECT 1"), "rewound");
    fs::write(&database, newer).unwrap();
    let signed = fs::read_to_string(&anchor).unwrap();
    fs::write(&anchor, &signed[..signed.len() - 9]).unwrap();
    assert_eq!(found_in_store(&instance, "SELECT 1"), "checkpoint-edited");
    fs::remove_file(&anchor).unwrap();
    assert_eq!(found_in_store(&instance, "SELECT 1"), "checkpoint-missing");
    let confirm = instance.json(&["audit", "re-anchor"])["confirm"].as_str().unwrap().to_owned();
    instance.cli(&["audit", "re-anchor", "--confirm", &confirm]).good();
    assert_eq!(found_in_store(&instance, "SELECT 1"), "good", "a person gave up what was signed before");
}
