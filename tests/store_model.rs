//! A store does what a map of names to versions and values does, whatever is done to it, and keeps it when it is closed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keyward::audit::record::Event;
use keyward::caller::CallerNote;
use keyward::store::{Batch, Kind, Sqlite, Store, Write};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::kit::postgres::Postgres;

/// Where stores are.
enum Place {
    Files(TempDir),
    Database(Postgres),
}

impl Place {
    /// The store of an instance of this name: a file of its own, or a log of its own in the database.
    async fn open(&self, name: &str, create: bool) -> Arc<dyn Store> {
        match self {
            Place::Files(directory) => {
                let path = directory.path().join(format!("{name}.db"));
                Arc::new(Sqlite::open(&path, create).await.unwrap())
            }
            Place::Database(server) => {
                Arc::new(keyward::store::Postgres::open(&server.url(), None, name, create).await.unwrap())
            }
        }
    }
}

/// What is done to a store, and what a map of names to versions and values makes of it.
#[derive(Clone, Debug)]
enum Step {
    /// Objects by number, each over a version that may be the wrong one, with this many records beside them.
    Commit(Vec<(usize, u64)>, usize),
    /// Closed and opened again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = (prop::collection::vec((0..3usize, 0..4u64), 0..4), 0..3usize).prop_map(|(w, e)| Step::Commit(w, e));
    prop::collection::vec(prop_oneof![8 => commit, 1 => Just(Step::Reopen)], 1..24)
}

/// Does the steps to a store and to a model of it, which must agree after each.
async fn agrees_with_the_model(place: &Place, name: &str, steps: Vec<Step>) {
    let mut store = place.open(name, true).await;
    let mut model: HashMap<String, (u64, u64)> = HashMap::new();
    let mut size = store.head().size;
    for (number, step) in steps.into_iter().enumerate() {
        let value = number as u64;
        match step {
            Step::Reopen => {
                store.close().await;
                store = place.open(name, false).await;
            }
            Step::Commit(writes, records) => {
                let writes: Vec<_> = writes.into_iter().map(|(n, over)| (format!("{name}/{n}"), over)).collect();
                let mut next = model.clone();
                let mut won = true;
                for (name, over) in &writes {
                    won &= next.get(name).map_or(0, |(version, _)| *version) == *over;
                    next.insert(name.clone(), (over + 1, value));
                }
                let batch = Batch {
                    writes: writes
                        .iter()
                        .map(|(name, over)| Write::new(Kind::Cluster, name, *over, &value).unwrap())
                        .collect(),
                    events: (0..records).map(|_| refusal()).collect(),
                };
                let done = store.commit(batch).await;
                assert_eq!(done.is_ok(), won, "{done:?} {writes:?} {model:?}");
                if won {
                    assert_eq!(done.unwrap(), size + writes.len() as u64);
                    size += (writes.len() + records) as u64;
                    model = next;
                }
            }
        }
        assert_eq!(store.head().size, size);
        for (name, (version, value)) in &model {
            let object = store.get(Kind::Cluster, name).await.unwrap().unwrap();
            assert_eq!((object.version, object.read::<u64>().unwrap()), (*version, *value));
        }
        let listed = store.list(Kind::Cluster, &format!("{name}/"), "", 100).await.unwrap();
        assert_eq!(listed.len(), model.len());
    }
    store.close().await;
}

fn agree(place: &Place, cases: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let count = AtomicU32::new(0);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            let name = format!("case-{}", count.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(agrees_with_the_model(place, &name, steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_store_in_a_file_agrees_with_a_map() {
    agree(&Place::Files(tempfile::tempdir().unwrap()), 48);
}

#[test]
fn a_store_in_a_database_agrees_with_a_map() {
    agree(&Place::Database(Postgres::start()), 24);
}

fn refusal() -> Event {
    Event::Refusal {
        caller: CallerNote::service(),
        operation: "test".into(),
        target: "test".into(),
        reason: "INTERNAL".into(),
        message: "x".into(),
    }
}
