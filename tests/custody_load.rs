//! Eight callers of the service while its token fails in every way: each act has one outcome in the log, and the log says
//! done exactly as often as a caller got a document.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::custody_faults::Faulty;
use crate::kit::events;

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_lost_or_doubled_while_the_token_fails_under_load() {
    let faulty = Faulty::new();
    let (signed, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (signed, over) = (Arc::clone(&signed), Arc::clone(&over));
        let (node, request) = (faulty.node().await, faulty.request());
        callers.push(tokio::spawn(async move {
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
    for trouble in [
        "C_SignInit 3 close-session",
        "C_SignInit 3 logout",
        "C_Sign 1 crash",
        "C_Sign 1 hang",
        "* always return 0x32",
        "C_Sign 3 return 0x5",
    ] {
        let so_far = signed.load(Ordering::Relaxed);
        faulty.script(trouble);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        faulty.script("");
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while signed.load(Ordering::Relaxed) < so_far + 20 {
            assert!(tokio::time::Instant::now() < end, "{trouble}: nothing is signed any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let log = faulty.instance.log();
    let is_intent = |event: &&serde_json::Value| event["act"]["kind"] == "use-license";
    let intents = events(&log, "intent").into_iter().filter(is_intent).count();
    let mut outcomes = BTreeMap::<u64, usize>::new();
    for outcome in events(&log, "outcome") {
        *outcomes.entry(outcome["intent"].as_u64().unwrap()).or_default() += 1;
    }
    assert!(outcomes.values().all(|count| *count == 1), "an act with two outcomes: {outcomes:?}");
    let ended = Faulty::outcomes(&log);
    assert_eq!(ended.len(), intents, "every intent has an outcome");
    let done = ended.iter().filter(|outcome| outcome["is"] == "done").count();
    assert_eq!(done, signed.load(Ordering::Relaxed), "what is done was answered, and nothing else was");
}
