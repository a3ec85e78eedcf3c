//! Eight callers of the service while its token fails in every way: each act has one outcome in the log, and the log says
//! done exactly as often as a caller got a document.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward::grpc::v1;
use serde_json::Value;

use crate::custody_faults::Faulty;
use crate::kit::{Instance, events};
use crate::tokens::{kill_host, on_tpm, with_failing_copy};

/// Eight callers that ask again and again, whatever they are told.
struct Callers {
    signed: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Callers {
    async fn of(instance: &Instance, request: &v1::SignDocumentRequest) -> Self {
        let (signed, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (signed, over) = (Arc::clone(&signed), Arc::clone(&over));
            let (node, request) = (instance.connect("node-1").await, request.clone());
            tasks.push(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    match node.licensing().sign_document(request.clone()).await {
                        Ok(_) => signed.fetch_add(1, Ordering::Relaxed),
                        Err(_) => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            0
                        }
                    };
                }
            }));
        }
        Callers { signed, over, tasks }
    }

    fn signed(&self) -> usize {
        self.signed.load(Ordering::Relaxed)
    }

    /// Waits until so many more documents are signed than were.
    async fn sign_again(&self, so_far: usize, more: usize, trouble: &str) {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.signed() < so_far + more {
            assert!(tokio::time::Instant::now() < end, "{trouble}: nothing is signed any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends them, and holds the log against what they got.
    async fn end(self, log: impl FnOnce() -> Vec<Value>) {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let log = log();
        let is_intent = |event: &&Value| event["act"]["kind"] == "use-license";
        let intents = events(&log, "intent").into_iter().filter(is_intent).count();
        let mut outcomes = BTreeMap::<u64, usize>::new();
        for outcome in events(&log, "outcome") {
            *outcomes.entry(outcome["intent"].as_u64().unwrap()).or_default() += 1;
        }
        assert!(outcomes.values().all(|count| *count == 1), "an act with two outcomes: {outcomes:?}");
        let ended = Faulty::outcomes(&log);
        assert_eq!(ended.len(), intents, "every intent has an outcome");
        let done = ended.iter().filter(|outcome| outcome["is"] == "done").count();
        assert_eq!(done, self.signed.load(Ordering::Relaxed), "what is done was answered, and nothing else was");
    }
}

/// The records as they stand in the store: where no key can sign, nothing is exported.
fn stored(instance: &Instance) -> Vec<Value> {
    let run = "import sqlite3,sys\nfor row in sqlite3.connect(sys.argv[1]).execute('SELECT record FROM entry ORDER BY seq'): \
               print(bytes(row[0]).decode())";
    let file = instance.data().join("keyward.db");
    let read = Command::new("python3").args(["-c", run]).arg(file).output().unwrap();
    assert!(read.status.success(), "{read:?}");
    String::from_utf8(read.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_lost_or_doubled_while_the_token_fails_under_load() {
    let faulty = Faulty::new();
    let callers = Callers::of(&faulty.instance, &faulty.request()).await;
    for trouble in [
        "C_SignInit 3 close-session",
        "C_SignInit 3 logout",
        "C_Sign 1 crash",
        "C_Sign 1 hang",
        "* always return 0x32",
        "C_Sign 3 return 0x5",
    ] {
        let so_far = callers.signed();
        faulty.script(trouble);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        faulty.script("");
        callers.sign_again(so_far, 20, trouble).await;
    }
    for _ in 0..5 {
        let so_far = callers.signed();
        kill_host(&faulty.instance, "main");
        callers.sign_again(so_far, 20, "a killed host").await;
    }
    callers.end(|| faulty.instance.log()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_lost_or_doubled_while_one_of_two_replicas_dies_and_returns_under_load() {
    let (instance, draft, script) = with_failing_copy("");
    let callers = Callers::of(&instance, &draft.request("clusters/demo")).await;
    callers.sign_again(0, 20, "nothing").await;
    for trouble in ["* always return 0x32", "C_Sign always crash", ""] {
        let so_far = callers.signed();
        std::fs::write(&script, trouble).unwrap();
        kill_host(&instance, "copy");
        tokio::time::sleep(Duration::from_millis(800)).await;
        callers.sign_again(so_far, 20, trouble).await;
    }
    callers.end(|| instance.log()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_lost_or_doubled_while_a_tpm_restarts_and_is_cleared_under_load() {
    let (instance, mut tpm, draft) = on_tpm();
    let callers = Callers::of(&instance, &draft.request("clusters/demo")).await;
    callers.sign_again(0, 3, "nothing").await;
    for _ in 0..2 {
        let so_far = callers.signed();
        tokio::task::block_in_place(|| tpm.restart());
        callers.sign_again(so_far, 3, "a TPM that restarts").await;
    }
    tokio::task::block_in_place(|| tpm.clear());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let so_far = callers.signed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(callers.signed(), so_far, "a TPM that was cleared has none of the keys");
    callers.end(|| stored(&instance)).await;
}
