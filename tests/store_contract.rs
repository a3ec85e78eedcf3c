//! The contract of the store port.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use keyward::audit::chain::Head;
use keyward::audit::record::{ActNote, Event, OutcomeNote, Record};
use keyward::caller::CallerNote;
use keyward::error::Reason;
use keyward::store::{Batch, Kind, Sqlite, Store, Write};

async fn open(directory: &Path) -> Arc<dyn Store> {
    Arc::new(Sqlite::open(&directory.join("store.db"), true).await.unwrap())
}

fn write(name: &str, over: u64, value: u64) -> Write {
    Write::new(Kind::Cluster, name, over, &value).unwrap()
}

fn refusal(message: &str) -> Event {
    Event::Refusal {
        caller: CallerNote::service(),
        operation: "test".into(),
        target: "test".into(),
        reason: "INTERNAL".into(),
        message: message.into(),
    }
}

fn intent() -> Event {
    Event::Intent {
        caller: CallerNote::service(),
        rule: "test".into(),
        act: ActNote::GenerateKey { key: "k".into(), id: "00".into(), role: "probe".into(), token: "t".into() },
    }
}

/// Reads the whole log and checks that it holds up to its head.
async fn whole_log(store: &dyn Store) -> Vec<Record> {
    let head = store.head();
    let mut at = Head::empty(head.log.clone());
    let mut records = Vec::new();
    while at.size < head.size {
        for bytes in store.entries(at.size, 100).await.unwrap() {
            records.push(at.follow(&bytes).unwrap());
        }
    }
    assert_eq!(at, head);
    records
}

#[tokio::test]
async fn a_commit_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let batch = Batch { writes: vec![write("clusters/a", 0, 7)], events: vec![refusal("one")] };
    assert_eq!(store.commit(batch).await.unwrap(), 1, "the batch's own record follows that of its object");
    let head = store.head();
    store.close().await;
    assert_eq!(store.commit(Batch::default()).await.unwrap_err().reason(), Reason::StoreUnavailable);

    let store = open(directory.path()).await;
    assert_eq!(store.head(), head);
    let object = store.get(Kind::Cluster, "clusters/a").await.unwrap().unwrap();
    assert_eq!((object.version, object.read::<u64>().unwrap()), (1, 7));
    assert_eq!(whole_log(store.as_ref()).await.len(), 2);
}

#[tokio::test]
async fn an_object_is_written_over_the_expected_version_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let put = |name: &str, over, value| Batch { writes: vec![write(name, over, value)], events: vec![] };
    store.commit(put("clusters/a", 0, 1)).await.unwrap();
    assert_eq!(store.commit(put("clusters/a", 0, 2)).await.unwrap_err().reason(), Reason::AlreadyExists);
    assert_eq!(store.commit(put("clusters/a", 5, 2)).await.unwrap_err().reason(), Reason::StoreConflict);
    store.commit(put("clusters/a", 1, 2)).await.unwrap();
    // One loser takes its whole batch with it, and its records.
    let size = store.head().size;
    let both = Batch { writes: vec![write("clusters/b", 0, 1), write("clusters/a", 1, 9)], events: vec![refusal("x")] };
    assert_eq!(store.commit(both).await.unwrap_err().reason(), Reason::StoreConflict);
    assert_eq!(store.head().size, size);
    assert!(store.get(Kind::Cluster, "clusters/b").await.unwrap().is_none());
    let object = store.get(Kind::Cluster, "clusters/a").await.unwrap().unwrap();
    assert_eq!((object.version, object.read::<u64>().unwrap()), (2, 2));
    whole_log(store.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_leave_one_log_without_gaps_and_one_winner_for_each_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut writers = Vec::new();
    for writer in 0..8u64 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut won = 0u64;
            for round in 0..50u64 {
                store.commit(Batch::event(refusal(&format!("{writer}-{round}")))).await.unwrap();
                let version = store.get(Kind::Cluster, "clusters/shared").await.unwrap().map_or(0, |o| o.version);
                let batch = Batch { writes: vec![write("clusters/shared", version, writer)], events: vec![] };
                match store.commit(batch).await {
                    Ok(_) => won += 1,
                    Err(fault) => {
                        assert!(matches!(fault.reason(), Reason::StoreConflict | Reason::AlreadyExists), "{fault:?}")
                    }
                }
            }
            won
        }));
    }
    let mut won = 0;
    for writer in writers {
        won += writer.await.unwrap();
    }
    let records = whole_log(store.as_ref()).await;
    assert_eq!(records.len() as u64, 8 * 50 + won);
    assert_eq!(store.get(Kind::Cluster, "clusters/shared").await.unwrap().unwrap().version, won);
}

#[tokio::test]
async fn an_intent_is_open_until_its_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = store.commit(Batch::event(intent())).await.unwrap();
    let second = store.commit(Batch::event(intent())).await.unwrap();
    assert_eq!(store.open_intents().await.unwrap(), [first, second]);
    let result = OutcomeNote::Done { result: "x".into() };
    store.commit(Batch::event(Event::Outcome { intent: first, result })).await.unwrap();
    store.close().await;
    let store = open(directory.path()).await;
    assert_eq!(store.open_intents().await.unwrap(), [second]);
}

#[tokio::test]
async fn listing_goes_by_prefix_and_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for name in
        ["clusters/a/keys/1", "clusters/a/keys/2", "clusters/a/keys/3", "clusters/ab/keys/1", "clusters/%/keys/1"]
    {
        store.commit(Batch { writes: vec![write(name, 0, 0)], events: vec![] }).await.unwrap();
    }
    let names = |after: &'static str, count| {
        let store = store.clone();
        async move {
            let page = store.list(Kind::Cluster, "clusters/a/keys/", after, count).await.unwrap();
            page.into_iter().map(|object| object.name).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("", 2).await, ["clusters/a/keys/1", "clusters/a/keys/2"]);
    assert_eq!(names("clusters/a/keys/2", 2).await, ["clusters/a/keys/3"]);
    assert_eq!(store.list(Kind::Cluster, "clusters/%", "", 10).await.unwrap().len(), 1, "no wildcard has a meaning");
}
