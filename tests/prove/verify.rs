//! The offline verifier over a large export: how fast, and in how little memory.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Command;
use std::time::Instant;

use keyward::audit::chain::Head;
use keyward::audit::record::{ActNote, Event, Moment, OutcomeNote};
use keyward::caller::CallerNote;

/// Records of the export.
const RECORDS: u64 = 500_000;
/// Address space that the verifier may take, in KiB: less than half of the file.
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
    let script = format!(
        "ulimit -v {MEMORY_KIB}; exec {} audit verify {} --output json",
        env!("CARGO_BIN_EXE_keyward"),
        file.display()
    );
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
