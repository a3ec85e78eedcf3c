//! A log of ten million records: listing and proving in it, through the running service, take a bounded time and memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test, whose figures are to be read"
)]

use std::fs;
use std::process::Command;
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

use crate::kit::{Instance, KEYWARD, Ran};

const RECORDS: u64 = 10_000_000;
/// Records from one measurement to the next.
const STEP: u64 = 1_000_000;
/// Records of one commit.
const BATCH: u64 = 2_000;
/// Proofs of one measurement, and pages.
const PROOFS: u64 = 300;
/// Records on one page.
const PAGE: i32 = 100;
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

/// Places all over a log.
fn places(size: u64) -> impl Iterator<Item = u64> {
    (0..PROOFS).map(move |n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size)
}

/// What half of them took at most, and all but one of a hundred.
struct Took(Vec<Duration>);

impl Took {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort();
        Took(took)
    }

    fn p50(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.1?} p99 {:.1?}", self.0[self.0.len() / 2], self.0[self.0.len() * 99 / 100])
    }
}

/// Proves records all over the log, and verifies each proof.
async fn prove(operator: &Connection, size: u64, trust: &Trust) -> Took {
    let mut took = Vec::new();
    for seq in places(size) {
        let begun = Instant::now();
        let asked = v1::ProveEntryRequest { name: format!("logs/-/entries/{seq}") };
        let proof = operator.audit().prove_entry(asked).await.unwrap().into_inner().proof;
        took.push(begun.elapsed());
        let proof: LogProof = proof.parse().unwrap();
        assert_eq!(proof.index, seq);
        proof.verify(&proof.extra.clone().unwrap(), trust).unwrap();
    }
    Took::of(took)
}

/// One page of a list.
async fn page(operator: &Connection, page_size: i32, filter: String) -> Vec<v1::Entry> {
    let asked = v1::ListEntriesRequest { parent: "logs/-".into(), page_size, filter, ..Default::default() };
    operator.audit().list_entries(asked).await.unwrap().into_inner().entries
}

/// Lists pages from times all over the log on, found by the time alone.
async fn list(operator: &Connection, size: u64) -> Took {
    let time = |entry: &v1::Entry| {
        let record: serde_json::Value = serde_json::from_slice(&entry.record).unwrap();
        record["time"].as_str().unwrap().to_owned()
    };
    let mut took = Vec::new();
    for seq in places(size - 1000) {
        let from = time(&page(operator, 1, format!("seq >= \"{seq}\"")).await[0]);
        let begun = Instant::now();
        let found = page(operator, PAGE, format!("time >= \"{from}\"")).await;
        took.push(begun.elapsed());
        assert_eq!((found.len(), time(&found[0])), (100, from));
    }
    Took::of(took)
}

/// Looks for a document by its GUID where there is none, page after page from the newest record back.
async fn look(operator: &Connection, pages: usize) -> Took {
    let mut asked = v1::ListEntriesRequest {
        parent: "logs/-".into(),
        page_size: PAGE,
        filter: "kind = \"outcome\" AND guid = \"{none}\"".into(),
        order_by: "seq desc".into(),
        ..Default::default()
    };
    let mut took = Vec::new();
    for _ in 0..pages {
        let begun = Instant::now();
        let page = operator.audit().list_entries(asked.clone()).await.unwrap().into_inner();
        took.push(begun.elapsed());
        assert!(page.entries.is_empty() && !page.next_page_token.is_empty());
        asked.page_token = page.next_page_token;
    }
    Took::of(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_among_ten_million_are_listed_and_proved_in_20_ms_and_flat_memory() {
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
        let proved = prove(&operator, size, &trust).await;
        let listed = list(&operator, size).await;
        let looked = look(&operator, 50).await;
        let memory = memory(&instance);
        println!(
            "{size} records: written at {:.0}/s; checked, signed and ready in {started:.1?}; a proof {proved}; a page \
             {listed}; 4000 records looked through {looked}; memory {} MiB",
            STEP as f64 / grown.as_secs_f64(),
            memory >> 20,
        );
        let before = *first.get_or_insert(memory);
        assert!(proved.p50() <= P50_MAX && listed.p50() <= P50_MAX, "{proved}, {listed}");
        assert!(memory <= before + GROWTH_MAX, "memory grew from {before} to {memory}");
        assert_eq!(instance.stop(), Some(0));
    }
    instance.start();
    export(&instance);
}

/// Exports the whole log, which takes so long that the command says how far it is, and verifies it.
fn export(instance: &Instance) {
    let (out, data) = (instance.path("export"), instance.data());
    let begun = Instant::now();
    let args = ["audit", "export", "--out", out.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let ran = Ran::from(Command::new(KEYWARD).args(args).output().unwrap());
    let exported = begun.elapsed();
    let memory = memory(instance);
    let said = ran.stderr.clone();
    ran.good();
    let (file, trust) = (out.join("audit.jsonl"), data.join("audit.trust"));
    let begun = Instant::now();
    let args = ["audit", "verify", file.to_str().unwrap(), "--trust", trust.to_str().unwrap(), "--output", "json"];
    let report: serde_json::Value =
        serde_json::from_str(&Ran::from(Command::new(KEYWARD).args(args).output().unwrap()).good()).unwrap();
    println!(
        "exported in {exported:.1?}, {} MiB, memory of the service {} MiB; verified in {:.1?}",
        file.metadata().unwrap().len() >> 20,
        memory >> 20,
        begun.elapsed(),
    );
    let mut last = 0;
    for line in said.lines() {
        let [done, "of", all, "records,", percent, "%"] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let [done, all, percent] = [done, all, percent].map(|number| number.parse::<u64>().unwrap());
        assert!(last < done && done <= all && percent == done * 100 / all, "{said}");
        last = done;
    }
    assert!(last > 0, "it says how far it is: {said:?}");
    assert!(report["records"].as_u64().unwrap() > last, "{report}");
}
