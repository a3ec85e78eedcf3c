//! The offline verifier over a large export, and over a large store: how fast, and in how little memory.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::process::Command;
use std::time::Instant;

use keyward::audit::chain::{ChainHash, Head};
use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::merkle::{Frontier, TreeHash};
use keyward::audit::record::{ActNote, Event, Moment, OutcomeNote};
use keyward::caller::CallerNote;
use keyward::store::{Batch, Kind, Sqlite, Store, Write as Change};
use serde_json::json;
use sqlx::Connection as _;

use crate::kit::signer::Signer;
use crate::kit::{Instance, KEYWARD};

/// Records of the export.
const RECORDS: u64 = 500_000;
/// Address space that the verifier may take, in KiB: less than half of the file, and of what the store's objects and
/// checkpoints would take.
const MEMORY_KIB: u64 = 100_000;
/// Records a second that it must do.
const PER_S: f64 = 200_000.0;

/// Two records for each of as many signatures, as an instance writes them.
fn write(mut out: impl Write) {
    let caller =
        CallerNote { certificate_sha256: Some("ab".repeat(32)), ..CallerNote::named("clusters/demo/nodes/node-1") };
    let mut head = Head::empty("f0e4c2f7-6c58-4a1c-9b1f-0e5c0d8b2f11");
    for n in 0..RECORDS / 2 {
        let act = ActNote::SignDocument {
            key: "clusters/demo/keys/slc-1".into(),
            kind: "use-license".into(),
            guid: format!("{{7a925b0c-b918-450b-8b7f-{n:012x}}}"),
            issued: "2026-11-24T09:30".into(),
            digest: format!("sha256:{n:064x}"),
        };
        let intent = head.size;
        let events = [
            Event::Intent { caller: caller.clone(), rule: "nodes-sign-use-licenses".into(), act },
            Event::Outcome { intent, result: OutcomeNote::Done { result: "c2ln".repeat(86) } },
        ];
        for event in events {
            let moment = Moment::of(1_700_000_000_000_000 + i64::try_from(n).unwrap() * 1_000);
            out.write_all(&head.append(&event.bytes().unwrap(), &moment).unwrap().bytes).unwrap();
            out.write_all(b"\n").unwrap();
        }
    }
    out.flush().unwrap();
}

#[test]
fn an_export_is_verified_at_200_000_records_a_second_in_constant_memory() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("audit.jsonl");
    write(BufWriter::new(File::create(&file).unwrap()));
    let bytes = file.metadata().unwrap().len();
    let script = format!("ulimit -v {MEMORY_KIB}; exec {} audit verify {} --output json", KEYWARD, file.display());
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let begun = Instant::now();
        let ran = Command::new("bash").args(["-c", &script]).output().unwrap();
        let per_s = RECORDS as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((&report["records"], &report["finding"]), (&RECORDS.into(), &"untrusted".into()));
        println!("{RECORDS} records, {} MiB: {per_s:.0} records/s", bytes >> 20);
        best = best.max(per_s);
    }
    assert!(best >= PER_S, "{best:.0} records/s at best");
}

/// Objects of a store, each written by a record of its own, and as many checkpoints: one over each record.
const OBJECTS: u64 = 200_000;
/// Objects that are committed, and records that are read, at a time.
const PAGE: u64 = 1000;
/// Puts such a store in the place of an instance's own.
async fn fill(instance: &Instance) {
    let db = instance.data().join("keyward.db");
    fs::remove_file(&db).unwrap();
    let store = Sqlite::open(&db, true).await.unwrap();
    for first in (0..OBJECTS).step_by(usize::try_from(PAGE).unwrap()) {
        let key = |n| Change::new(Kind::Key, &format!("clusters/demo/keys/{n:07}"), 0, &json!({ "n": n })).unwrap();
        store.commit(Batch { writes: (first..first + PAGE).map(key).collect(), events: vec![] }).await.unwrap();
    }
    let log = store.head().log;
    let signer = Signer::new(&log);
    let mut raw = sqlx::SqliteConnection::connect(db.to_str().unwrap()).await.unwrap();
    let mut signed = raw.begin().await.unwrap();
    let (mut tree, mut last) = (Frontier::default(), String::new());
    while tree.size() < OBJECTS {
        for record in store.entries(&log, tree.size(), u32::try_from(PAGE).unwrap()).await.unwrap() {
            let place = i64::try_from(tree.size()).unwrap();
            tree.append(TreeHash::leaf(&record), |_, _, _| {});
            let (size, root, chain) = (tree.size(), tree.root(), ChainHash::of(&record));
            let checkpoint = Checkpoint { log: log.clone(), size, root, chain, others: vec![] };
            last = signer.sign(checkpoint.note().unwrap()).to_string();
            let insert = sqlx::query("INSERT INTO checkpoint (log_id, place, note) VALUES (?, ?, ?)");
            insert.bind(&log).bind(place).bind(&last).execute(&mut *signed).await.unwrap();
        }
    }
    signed.commit().await.unwrap();
    raw.close().await.unwrap();
    store.close().await;
    fs::write(instance.data().join("audit.anchor"), last).unwrap();
    fs::write(instance.data().join("audit.trust"), signer.trust(&log).to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_many_objects_and_checkpoints_is_verified_in_bounded_memory() {
    let instance = Instance::new();
    fill(&instance).await;
    let data = instance.data();
    let script = format!("ulimit -v {MEMORY_KIB}; exec {KEYWARD} audit verify --data {} --output json", data.display());
    let mut raw = sqlx::SqliteConnection::connect(data.join("keyward.db").to_str().unwrap()).await.unwrap();
    let last = format!("clusters/demo/keys/{:07}", OBJECTS - 1);
    for (edit, finding) in [
        ("SELECT ?".to_owned(), "good"),
        ("UPDATE object SET body = x'7b7d' WHERE name = ?".to_owned(), "row-edited"),
        ("DELETE FROM object WHERE name = ?".to_owned(), "row-missing"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(edit)).bind(&last).execute(&mut raw).await.unwrap();
        let begun = Instant::now();
        // Not for what allocators set aside for each thread and never use.
        let ran = Command::new("bash").env("MALLOC_ARENA_MAX", "1").args(["-c", &script]).output().unwrap();
        let report: serde_json::Value =
            serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{finding}: {ran:?}"));
        assert_eq!((&report["records"], &report["finding"]), (&OBJECTS.into(), &finding.into()), "{report:#}");
        println!("{OBJECTS} objects and checkpoints: {finding} in {:.1?}", begun.elapsed());
    }
}
