//! A log of ten million records: proving and signing in it, through the running service, takes a bounded time and memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test, whose figures are to be read"
)]

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward::audit::proof::LogProof;
use keyward::audit::record::{ActNote, Event, OutcomeNote};
use keyward::audit::trust::Trust;
use keyward::caller::CallerNote;
use keyward::grpc::client::Connection;
use keyward::grpc::v1;
use keyward::store::{Batch, Sqlite, Store};

use crate::kit::Instance;

const RECORDS: u64 = 10_000_000;
/// Records from one measurement to the next.
const STEP: u64 = 1_000_000;
/// Records of one commit.
const BATCH: u64 = 2_000;
/// Proofs of one measurement.
const PROOFS: u64 = 300;
const P50_MAX: Duration = Duration::from_millis(20);
/// How much more memory ten million records may take than one million, in bytes.
const GROWTH_MAX: u64 = 32 << 20;

/// An intent and its outcome, as long as those of licenses.
fn pair(seq: u64) -> [Event; 2] {
    let act = ActNote::SignDocument {
        key: "clusters/demo/keys/slc-1".into(),
        kind: "use-license".into(),
        guid: format!("{{00000000-0000-0000-0000-{seq:012}}}"),
        issued: "2026-01-01T00:00".into(),
        digest: format!("sha256:{seq:064}"),
    };
    let intent = Event::Intent { caller: CallerNote::service(), rule: "nodes-sign-use-licenses".into(), act };
    let result = OutcomeNote::Done { result: STANDARD.encode([0x5a; 256]) };
    [intent, Event::Outcome { intent: seq, result }]
}

async fn grow(instance: &Instance, to: u64) {
    let store = Sqlite::open(&instance.data().join("keyward.db"), false).await.unwrap();
    while store.head().size < to {
        let first = store.head().size;
        let events = (0..BATCH / 2).flat_map(|n| pair(first + 2 * n)).collect();
        store.commit(Batch { writes: vec![], events }).await.unwrap();
    }
    store.close().await;
}

/// Resident memory of the service, in bytes.
fn memory(instance: &Instance) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Proves records all over the log; gives how long each took, in order.
async fn prove(operator: &Connection, size: u64, trust: &Trust) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..PROOFS {
        let seq = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size;
        let begun = Instant::now();
        let asked = v1::ProveEntryRequest { name: format!("logs/-/entries/{seq}") };
        let proof = operator.audit().prove_entry(asked).await.unwrap().into_inner().proof;
        took.push(begun.elapsed());
        let proof: LogProof = proof.parse().unwrap();
        assert_eq!(proof.index, seq);
        proof.verify(&proof.extra.clone().unwrap(), trust).unwrap();
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_among_ten_million_is_proved_in_20_ms_and_flat_memory() {
    let mut instance = Instance::new();
    let trust: Trust = fs::read_to_string(instance.data().join("audit.trust")).unwrap().parse().unwrap();
    let mut first = None;
    for size in (1..=RECORDS / STEP).map(|step| step * STEP) {
        let begun = Instant::now();
        grow(&instance, size).await;
        let grown = begun.elapsed();
        let begun = Instant::now();
        instance.start();
        let started = begun.elapsed();
        let operator = Connection::operator(&instance.data().join("operator.sock")).await.unwrap();
        let took = prove(&operator, size, &trust).await;
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        let memory = memory(&instance);
        println!(
            "{size} records: written at {:.0}/s; checked, signed and ready in {started:.1?}; a proof p50 {p50:.1?} \
             p99 {p99:.1?}; memory {} MiB",
            STEP as f64 / grown.as_secs_f64(),
            memory >> 20,
        );
        let before = *first.get_or_insert(memory);
        assert!(p50 <= P50_MAX, "{p50:?}");
        assert!(memory <= before + GROWTH_MAX, "memory grew from {before} to {memory}");
        assert_eq!(instance.stop(), Some(0));
    }
}
