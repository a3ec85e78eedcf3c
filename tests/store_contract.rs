//! The contract of the store port, on both stores; and what PostgreSQL adds: instances beside each other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::audit::chain::Head;
use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::merkle::{Frontier, TreeHash, inclusion_path, verify_inclusion};
use keyward::audit::record::{ActNote, Event, OutcomeNote, RECORD_BYTES_MAX, Record};
use keyward::caller::CallerNote;
use keyward::error::{Reason, Result};
use keyward::store::{Batch, Kind, Sqlite, Store, Write, ask};
use tempfile::TempDir;

use crate::kit::postgres::Postgres;

/// Where a store is.
enum Place {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Place {
    fn sqlite() -> Self {
        Place::Sqlite(tempfile::tempdir().unwrap())
    }

    fn postgres() -> Self {
        Place::Postgres(Postgres::start())
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Place::Sqlite(_) => Arc::new(Sqlite::open(&self.file(), true).await.unwrap()),
            Place::Postgres(server) => instance(server, "a").await,
        }
    }

    /// Opens the store that is there.
    async fn try_open(&self) -> Result<Arc<dyn Store>> {
        Ok(match self {
            Place::Sqlite(_) => Arc::new(Sqlite::open(&self.file(), false).await?),
            Place::Postgres(server) => Arc::new(keyward::store::Postgres::open(&server.url(), None, "a", false).await?),
        })
    }

    fn file(&self) -> PathBuf {
        let Place::Sqlite(directory) = self else { panic!("a server is no file") };
        directory.path().join("store.db")
    }

    /// Changes the rows of a store that nobody has open.
    fn sql(&self, change: &str) {
        match self {
            Place::Sqlite(_) => sqlite(&self.file(), change),
            Place::Postgres(server) => server.sql(change),
        }
    }

    /// Bytes as the database writes them.
    fn bytes(&self, hex: &str) -> String {
        match self {
            Place::Sqlite(_) => format!("x'{hex}'"),
            Place::Postgres(_) => format!("'\\x{hex}'"),
        }
    }

    /// Puts the rows of the log aside, under other names.
    fn set_aside(&self) {
        for table in LOG_TABLES {
            self.sql(&format!("CREATE TABLE aside_{table} AS SELECT * FROM {table}"));
        }
    }

    /// Brings them back.
    fn bring_back(&self) {
        for table in LOG_TABLES {
            self.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM aside_{table}"));
        }
    }
}

const LOG_TABLES: [&str; 3] = ["log", "entry", "subtree"];

async fn instance(server: &Postgres, name: &str) -> Arc<dyn Store> {
    let url = server.url();
    let open = |create| keyward::store::Postgres::open(&url, None, name, create);
    match open(false).await {
        Ok(store) => Arc::new(store),
        Err(_) => Arc::new(open(true).await.unwrap()),
    }
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(super::Place::sqlite()).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(super::Place::postgres()).await;
                }
            )*
        }
    };
}

on_both! {
    a_commit_is_there_after_reopening
    an_object_is_written_over_the_expected_version_only
    eight_writers_leave_one_log_without_gaps_and_one_winner_for_each_version
    an_intent_is_open_until_its_outcome
    listing_goes_by_prefix_and_page
    a_list_misses_a_row_that_was_removed
    the_tree_grows_with_the_records_and_is_there_after_reopening
    a_tree_that_does_not_fit_its_records_is_not_opened
    checkpoints_are_kept_in_their_order
    a_record_beyond_its_bound_is_refused_with_its_batch_and_the_log_goes_on
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
        for bytes in store.entries(&store.head().log, at.size, 100).await.unwrap() {
            at.follow(&bytes).unwrap();
            records.push(Record::read(&bytes).unwrap());
        }
    }
    assert_eq!(at, head);
    records
}

async fn a_commit_is_there_after_reopening(place: Place) {
    let store = place.open().await;
    let batch = Batch { writes: vec![write("clusters/a", 0, 7)], events: vec![refusal("one")] };
    assert_eq!(store.commit(batch).await.unwrap(), 1, "the batch's own record follows that of its object");
    let head = store.head();
    store.close().await;
    assert_eq!(store.commit(Batch::default()).await.unwrap_err().reason(), Reason::StoreUnavailable);

    let store = place.open().await;
    assert_eq!(store.head(), head);
    let object = store.get(Kind::Cluster, "clusters/a").await.unwrap().unwrap();
    assert_eq!((object.version, object.read::<u64>().unwrap()), (1, 7));
    assert_eq!(whole_log(store.as_ref()).await.len(), 2);
}

async fn an_object_is_written_over_the_expected_version_only(place: Place) {
    let store = place.open().await;
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

async fn eight_writers_leave_one_log_without_gaps_and_one_winner_for_each_version(place: Place) {
    let store = place.open().await;
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

async fn an_intent_is_open_until_its_outcome(place: Place) {
    let store = place.open().await;
    let first = store.commit(Batch::event(intent())).await.unwrap();
    let second = store.commit(Batch::event(intent())).await.unwrap();
    assert_eq!(store.open_intents().await.unwrap(), [first, second]);
    let result = OutcomeNote::Done { result: "x".into() };
    store.commit(Batch::event(Event::Outcome { intent: first, result })).await.unwrap();
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.open_intents().await.unwrap(), [second]);
}

async fn listing_goes_by_prefix_and_page(place: Place) {
    let store = place.open().await;
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

async fn a_list_misses_a_row_that_was_removed(place: Place) {
    let store = place.open().await;
    // Names that JSON writes otherwise than they are.
    for name in ["clusters/a", "clusters/b", "clusters/\"quoted\"", "clusters/c"] {
        store.commit(Batch { writes: vec![write(name, 0, 0)], events: vec![] }).await.unwrap();
    }
    store.commit(Batch { writes: vec![write("clusters/b", 1, 1)], events: vec![] }).await.unwrap();
    let all = ["clusters/\"quoted\"", "clusters/a", "clusters/b", "clusters/c"];
    assert_eq!(store.names(Kind::Cluster, "clusters/", "", 10).await.unwrap(), all);
    store.close().await;
    for (removed, name) in
        [("= 'clusters/b'", "clusters/b"), ("LIKE '%quoted%'", all[0]), ("= 'clusters/c'", "clusters/c")]
    {
        place.sql("CREATE TABLE aside_object AS SELECT * FROM object");
        place.sql(&format!("DELETE FROM object WHERE name {removed}"));
        let store = place.open().await;
        assert_eq!(store.names(Kind::Cluster, "clusters/", "", 10).await.unwrap(), all);
        let fault = store.list(Kind::Cluster, "clusters/", "", 10).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::ObjectAltered);
        assert!(fault.message().contains(&format!("{name} was removed")), "{fault:?}");
        assert!(store.list(Kind::Key, "", "", 10).await.unwrap().is_empty(), "of another kind");
        store.close().await;
        place.sql("DELETE FROM object; INSERT INTO object SELECT * FROM aside_object; DROP TABLE aside_object");
    }
    assert_eq!(place.open().await.list(Kind::Cluster, "", "", 10).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_beside_each_other_have_a_log_each_and_share_the_objects() {
    let server = Postgres::start();
    let both = [instance(&server, "a").await, instance(&server, "b").await];
    // What a log changed counts in another once somebody vouches for it there: for what is its beginning.
    for (store, other) in [(&both[0], &both[1]), (&both[1], &both[0])] {
        other.commit(Batch::event(refusal("first"))).await.unwrap();
        let (Head { log, size, chain, .. }, tree) = other.tree();
        let signed = Checkpoint { log, size, root: tree.root(), chain, others: vec![] };
        let wrong = Checkpoint { root: TreeHash::empty(), ..signed.clone() };
        assert_eq!(store.vouch(&wrong).await.unwrap_err().reason(), Reason::StoreForked);
        store.vouch(&signed).await.unwrap();
    }
    let mut writers = Vec::new();
    for writer in 0..8usize {
        let store = both[writer % 2].clone();
        writers.push(tokio::spawn(async move {
            let mut won = [0u64; 2];
            for _ in 0..25 {
                // Two objects at once, in an order of each writer's own: no two groups may wait for each other.
                let mut names = ["clusters/x", "clusters/y"];
                names.rotate_left(writer % 2);
                let mut writes = Vec::new();
                for name in names {
                    let version = store.get(Kind::Cluster, name).await.unwrap().map_or(0, |object| object.version);
                    writes.push(write(name, version, 1));
                }
                match store.commit(Batch { writes, events: vec![refusal("x")] }).await {
                    Ok(_) => won[writer % 2] += 1,
                    Err(fault) => {
                        assert!(matches!(fault.reason(), Reason::StoreConflict | Reason::AlreadyExists), "{fault:?}")
                    }
                }
            }
            won
        }));
    }
    let mut won = [0, 0];
    for writer in writers {
        let [a, b] = writer.await.unwrap();
        won = [won[0] + a, won[1] + b];
    }
    for (store, won) in both.iter().zip(won) {
        assert_eq!(whole_log(store.as_ref()).await.len() as u64, 1 + 3 * won);
    }
    for name in ["clusters/x", "clusters/y"] {
        assert_eq!(both[0].get(Kind::Cluster, name).await.unwrap().unwrap().version, won[0] + won[1]);
    }
    let mut heads = both.each_ref().map(|store| store.head());
    heads.sort_by(|one, other| one.log.cmp(&other.log));
    assert_eq!(both[1].heads().await.unwrap(), heads);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_a_log_shuts_out_the_one_before() {
    let server = Postgres::start();
    let first = instance(&server, "a").await;
    first.commit(Batch::event(refusal("one"))).await.unwrap();
    let second = instance(&server, "a").await;
    for _ in 0..2 {
        let fault = first.commit(Batch::event(refusal("late"))).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::StoreUnavailable);
        assert!(fault.message().contains("taken over"), "{fault:?}");
        let fault = first.commit(Batch { writes: vec![write("clusters/a", 0, 1)], events: vec![] }).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::StoreUnavailable);
    }
    assert!(!first.lease("work", 60).await.unwrap());
    assert!(second.get(Kind::Cluster, "clusters/a").await.unwrap().is_none());
    second.commit(Batch::event(refusal("two"))).await.unwrap();
    assert_eq!(whole_log(second.as_ref()).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_work_is_one_instances_until_it_gives_it_back_or_the_time_is_over() {
    let server = Postgres::start();
    let (a, b) = (instance(&server, "a").await, instance(&server, "b").await);
    assert!(a.lease("work", 60).await.unwrap());
    assert!(!b.lease("work", 60).await.unwrap());
    assert!(b.lease("other work", 60).await.unwrap());
    assert!(a.lease("work", 60).await.unwrap(), "renewed");
    assert!(a.lease("work", 0).await.unwrap(), "given back");
    assert!(b.lease("work", 1).await.unwrap());
    assert!(!a.lease("work", 60).await.unwrap());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(a.lease("work", 60).await.unwrap(), "b let it run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_outlives_the_server_and_the_log_goes_on_when_it_is_back() {
    let mut server = Postgres::start();
    let store = instance(&server, "a").await;
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (store, enough) = (store.clone(), enough.clone());
        writers.push(tokio::spawn(async move {
            let mut there = Vec::new();
            let mut failed = 0;
            for round in 0.. {
                let message = format!("{writer}-{round}");
                match store.commit(Batch::event(refusal(&message))).await {
                    Ok(seq) => there.push((seq, message)),
                    Err(fault) => {
                        assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
                        failed += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                if enough.load(Ordering::Relaxed) {
                    break;
                }
            }
            (there, failed)
        }));
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.restart();
        let size = store.head().size;
        let end = Instant::now() + Duration::from_secs(30);
        while store.head().size <= size + 4 {
            assert!(Instant::now() < end, "the log does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    enough.store(true, Ordering::Relaxed);
    let mut failures = 0;
    let mut there = Vec::new();
    for writer in writers {
        let (committed, failed) = writer.await.unwrap();
        there.extend(committed);
        failures += failed;
    }
    assert!(failures > 0);
    let records = whole_log(store.as_ref()).await;
    for (seq, message) in there {
        assert_eq!(records[usize::try_from(seq).unwrap()].event, refusal(&message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_this_instances_log_is_not_begun_again() {
    let server = Postgres::start();
    let open = |create| {
        let url = server.url();
        async move { keyward::store::Postgres::open(&url, None, "a", create).await.map(|_| ()) }
    };
    assert_eq!(open(false).await.unwrap_err().reason(), Reason::StoreUnavailable);
    open(true).await.unwrap();
    assert_eq!(open(true).await.unwrap_err().reason(), Reason::AlreadyExists);
    open(false).await.unwrap();
    server.sql("INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), true, '', 0)");
    assert_eq!(open(false).await.unwrap_err().reason(), Reason::SchemaNewer);
}

/// Reads a stored copy of an earlier schema.
fn earlier(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store").join(name)
}

/// Runs SQL on a SQLite file that no store has open.
fn sqlite(path: &Path, script: &str) {
    let run = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())";
    let mut python = Command::new("python3").args(["-c", run]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(python.wait().unwrap().success());
}

/// What the stored copies hold, and that their log goes on.
async fn holds_what_the_copy_holds(store: &dyn Store) {
    assert_eq!(store.open_intents().await.unwrap(), [2, 4]);
    assert_eq!(store.get(Kind::Cluster, "clusters/a").await.unwrap().unwrap().read::<u64>().unwrap(), 7);
    let size = store.head().size;
    store.commit(Batch::event(refusal("after"))).await.unwrap();
    assert_eq!(whole_log(store).await.len() as u64, size + 1);
    assert_eq!(store.tree().1, tree_by_hand(store).await);
}

#[tokio::test]
async fn a_store_of_an_earlier_schema_is_brought_up_to_date_with_its_log_objects_and_open_intents() {
    for copy in ["sqlite-1.sql", "sqlite-2.sql"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        sqlite(&path, &fs::read_to_string(earlier(copy)).unwrap());
        for size in [5, 6] {
            let store = Sqlite::open(&path, false).await.unwrap();
            assert_eq!(store.head().size, size, "{copy}");
            holds_what_the_copy_holds(&store).await;
            store.close().await;
        }
    }
    let server = Postgres::start();
    server.sql(&fs::read_to_string(earlier("postgres-1.sql")).unwrap());
    for size in [5, 6] {
        let store = keyward::store::Postgres::open(&server.url(), None, "a", false).await.unwrap();
        assert_eq!(store.head().size, size);
        holds_what_the_copy_holds(&store).await;
        store.close().await;
    }
}

/// The tree of a log, made of nothing but its records.
async fn tree_by_hand(store: &dyn Store) -> Frontier {
    let mut tree = Frontier::default();
    while tree.size() < store.head().size {
        for record in store.entries(&store.head().log, tree.size(), 1000).await.unwrap() {
            tree.append(TreeHash::leaf(&record), |_, _, _| {});
        }
    }
    tree
}

async fn many(store: &dyn Store, records: u64) {
    while store.head().size < records {
        let count = (records - store.head().size).min(300);
        let events = (0..count).map(|n| refusal(&format!("record {n}"))).collect();
        store.commit(Batch { writes: vec![], events }).await.unwrap();
    }
}

async fn the_tree_grows_with_the_records_and_is_there_after_reopening(place: Place) {
    let store = place.open().await;
    for records in [1, 255, 256, 257, 1000, 3000] {
        many(store.as_ref(), records).await;
        assert_eq!(store.tree(), (store.head(), tree_by_hand(store.as_ref()).await), "{records}");
    }
    let (head, tree) = store.tree();
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.tree(), (head, tree.clone()));
    let size = store.head().size;
    assert_eq!(ask(store.as_ref(), |tree| Frontier::of(size, tree)).await.unwrap(), tree);
    let leaf = TreeHash::leaf(&store.entries(&store.head().log, 2_500, 1).await.unwrap()[0]);
    let path = ask(store.as_ref(), |tree| inclusion_path(2_500, size, tree)).await.unwrap();
    verify_inclusion(leaf, 2_500, size, &path, tree.root()).unwrap();
}

async fn a_tree_that_does_not_fit_its_records_is_not_opened(place: Place) {
    let store = place.open().await;
    many(store.as_ref(), 700).await;
    store.close().await;
    place.set_aside();
    let zeros = "0".repeat(64);
    for change in [
        format!("UPDATE log SET frontier = {}", place.bytes(&zeros.repeat(6))),
        format!("UPDATE log SET frontier = {}", place.bytes(&zeros)),
        format!("UPDATE log SET chain = {}", place.bytes(&zeros)),
        format!("UPDATE subtree SET root = {} WHERE place = 1", place.bytes(&zeros)),
        "DELETE FROM subtree WHERE place = 0".to_owned(),
        "DELETE FROM entry WHERE seq = 699".to_owned(),
        "DELETE FROM entry WHERE seq = 600".to_owned(),
        "UPDATE log SET size = 699".to_owned(),
        "UPDATE log SET time_us = time_us + 1".to_owned(),
    ] {
        place.sql(&change);
        let fault = place.try_open().await.map(|_| ()).unwrap_err();
        assert_eq!(fault.reason(), Reason::RecordBroken, "{change}: {fault:?}");
        place.bring_back();
    }
    place.try_open().await.unwrap();
}

async fn a_record_beyond_its_bound_is_refused_with_its_batch_and_the_log_goes_on(place: Place) {
    let store = place.open().await;
    let long = refusal(&"x".repeat(RECORD_BYTES_MAX));
    let batch = Batch { writes: vec![write("clusters/a", 0, 1)], events: vec![refusal("short"), long] };
    let fault = store.commit(batch).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::LimitExceeded);
    assert!(fault.next_step().unwrap().contains("nothing was recorded"), "{fault:?}");
    assert!(store.get(Kind::Cluster, "clusters/a").await.unwrap().is_none());
    assert!(whole_log(&*store).await.is_empty());
    // Nearly as long as one may be.
    store.commit(Batch::event(refusal(&"x".repeat(RECORD_BYTES_MAX - 1024)))).await.unwrap();
    let log = whole_log(&*store).await;
    assert_eq!(log.len(), 1);
    assert!(log[0].bytes().unwrap().len() <= RECORD_BYTES_MAX);
}

async fn checkpoints_are_kept_in_their_order(place: Place) {
    let store = place.open().await;
    assert_eq!(store.last_checkpoint(&store.head().log).await.unwrap(), None);
    store.commit(Batch::event(refusal("one"))).await.unwrap();
    let head = store.head();
    for note in ["one\n", "two\n"] {
        store.keep_checkpoint(note).await.unwrap();
        assert_eq!(store.last_checkpoint(&store.head().log).await.unwrap().as_deref(), Some(note));
    }
    assert_eq!(store.head(), head, "a checkpoint is no record");
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.last_checkpoint(&store.head().log).await.unwrap().as_deref(), Some("two\n"));
}
