//! Databases that were tampered with, in a file and on a server: each way is told apart and named. What the verifier of
//! stores calls it is looked at while the store is open, so that no check at its opening comes before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::record::{ActNote, Event, OutcomeNote};
use keyward::audit::verify::{Report, Verifier};
use keyward::caller::CallerNote;
use keyward::store::{Batch, Kind, Sqlite, Store, Vouched, Write, inspect};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;

use crate::kit::postgres::Postgres;
use crate::kit::signer::Signer;
use crate::log_tails::rewrite;
use crate::other_logs::opened;
use crate::tamper::{mended, re_anchored};

/// A store with a small log, all of it signed.
struct Place {
    directory: TempDir,
    server: Option<Postgres>,
    store: Arc<dyn Store>,
    signer: Signer,
    vouched: Vouched,
    records: Vec<Vec<u8>>,
}

async fn open(directory: &TempDir, server: Option<&Postgres>, create: bool) -> keyward::error::Result<Arc<dyn Store>> {
    Ok(match server {
        Some(server) => Arc::new(keyward::store::Postgres::open(&server.url(), None, "a", create).await?),
        None => Arc::new(Sqlite::open(&directory.path().join("store.db"), create).await?),
    })
}

/// Signs the log as it ends now; gives the note.
async fn sign(store: &dyn Store, signer: &Signer) -> String {
    let (head, tree) = store.tree();
    let signed = Checkpoint { log: head.log, size: head.size, root: tree.root(), chain: head.chain, others: vec![] };
    let note = signer.sign(signed.note().unwrap()).to_string();
    store.keep_checkpoint(&note).await.unwrap();
    note
}

impl Place {
    async fn new(server: Option<Postgres>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory, server.as_ref(), true).await.unwrap();
        let caller = CallerNote { uid: Some(7), ..CallerNote::named("local-operator") };
        let opened = Event::LogOpened { version: "1".into(), tokens: vec!["main: \u{e9} \"x\"".into()] };
        store.commit(Batch::event(opened)).await.unwrap();
        let act = ActNote::SignTlsCertificate { key: "k".into(), subject: "s".into(), digest: "sha256:00".into() };
        let intent = store.commit(Batch::event(Event::Intent { caller, rule: "r".into(), act })).await.unwrap();
        let result = OutcomeNote::Done { result: "c2ln".into() };
        let key = json!({ "name": "keys/k", "public": "0a0b0c", "role": "slc", "state": "active" });
        let writes = vec![
            Write::new(Kind::Key, "keys/k", 0, &key).unwrap(),
            Write::new(Kind::Principal, "nodes/n", 0, &json!({ "role": "node" })).unwrap(),
        ];
        store.commit(Batch { writes, events: vec![Event::Outcome { intent, result }] }).await.unwrap();
        let signer = Signer::new(&store.head().log);
        sign(store.as_ref(), &signer).await;
        store.commit(Batch::event(Event::LogClosed {})).await.unwrap();
        let anchor = Some(sign(store.as_ref(), &signer).await);
        let log = store.head().log;
        let records = store.entries(&log, 0, 100).await.unwrap();
        assert_eq!(records.len(), 6);
        let vouched = Vouched { trust: signer.trust(&log), anchor };
        let place = Place { directory, server, store, signer, vouched, records };
        for table in ["log", "entry", "object", "checkpoint"] {
            place.sql(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"));
        }
        place
    }

    fn sql(&self, statements: &str) {
        match &self.server {
            Some(server) => server.sql(statements),
            None => {
                let script =
                    "import sqlite3,sys; d=sqlite3.connect(sys.argv[1]); d.executescript(sys.argv[2]); d.close()";
                let mut python = std::process::Command::new("python3");
                python.args(["-c", script]).arg(self.directory.path().join("store.db")).arg(statements);
                assert!(python.status().unwrap().success(), "{statements}");
            }
        }
    }

    /// How statements write bytes.
    fn bytes(&self, bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if self.server.is_some() { format!("'\\x{digits}'::bytea") } else { format!("x'{digits}'") }
    }

    /// Puts other records in the place of the log's.
    fn replaced(&self, records: &[Vec<u8>]) -> String {
        let mut statements = "DELETE FROM entry".to_owned();
        for (seq, record) in records.iter().enumerate() {
            let record = self.bytes(record);
            statements += &match self.server {
                Some(_) => format!("; INSERT INTO entry SELECT log_id, {seq}, {record} FROM log"),
                None => format!("; INSERT INTO entry VALUES ({seq}, {record})"),
            };
        }
        statements
    }

    fn undo(&self) {
        let tables = ["log", "entry", "object", "checkpoint"];
        let undo = tables.map(|table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}"));
        self.sql(&undo.join("; "));
    }

    async fn report(&self) -> Report {
        inspect(self.store.as_ref(), Verifier::new(None), Some(&self.vouched), &[]).await.unwrap()
    }

    /// What is found after an edit, which is undone.
    #[track_caller]
    fn found(&self, what: &str, edit: &str, finding: &str) {
        self.sql(edit);
        let report = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.report()));
        assert_eq!(serde_json::to_value(report.finding).unwrap(), finding, "{what}: {report:?}");
        self.undo();
    }
}

/// The same with text of one record replaced.
fn with(records: &[Vec<u8>], at: usize, from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut records = records.to_vec();
    let text = String::from_utf8(records[at].clone()).unwrap();
    assert!(text.contains(from), "{text}");
    records[at] = text.replacen(from, to, 1).into_bytes();
    records
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(super::Place::new(None).await).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(super::Place::new(Some(super::Postgres::start())).await).await;
                }
            )*
        }
    };
}

on_both! {
    every_flipped_byte_of_every_record_is_called_an_edit
    every_flipped_byte_of_every_checkpoint_and_row_is_found_and_named
    what_was_done_to_records_checkpoints_and_rows_is_told_apart
    a_database_of_an_earlier_time_is_found_by_what_was_signed_later
    an_open_intent_that_the_head_passes_over_is_named
}

/// A connection of whoever may write the database.
enum Raw {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Raw {
    async fn to(place: &Place) -> Self {
        match &place.server {
            Some(server) => Raw::Postgres(sqlx::PgConnection::connect(&server.url()).await.unwrap()),
            None => {
                let file = place.directory.path().join("store.db");
                Raw::Sqlite(sqlx::SqliteConnection::connect(file.to_str().unwrap()).await.unwrap())
            }
        }
    }

    async fn edit(&mut self, statement: String) {
        let statement = sqlx::AssertSqlSafe(statement);
        match self {
            Raw::Sqlite(raw) => drop(raw.execute(statement).await.unwrap()),
            Raw::Postgres(raw) => drop(raw.execute(statement).await.unwrap()),
        }
    }
}

async fn every_flipped_byte_of_every_record_is_called_an_edit(place: Place) {
    let mut raw = Raw::to(&place).await;
    let mut write = async |seq: usize, record: &[u8]| {
        raw.edit(format!("UPDATE entry SET record = {} WHERE seq = {seq}", place.bytes(record))).await;
    };
    let last = place.records.len() - 1;
    for (seq, record) in place.records.iter().enumerate() {
        for byte in 0..record.len() {
            let mut changed = record.clone();
            changed[byte] ^= 0x01;
            write(seq, &changed).await;
            let report = place.report().await;
            let finding = serde_json::to_value(report.finding).unwrap();
            // The last record has none behind it that shows which of the two was changed.
            let of_last = finding == "not-as-signed" || finding == "time-back";
            assert!(finding == "edited" || seq == last && of_last, "{seq} {byte}: {report:?}");
        }
        write(seq, record).await;
    }
    assert_eq!(serde_json::to_value(place.report().await.finding).unwrap(), "good");
}

async fn every_flipped_byte_of_every_checkpoint_and_row_is_found_and_named(place: Place) {
    let mut raw = Raw::to(&place).await;
    let log = place.store.head().log;
    let mut values = Vec::new();
    for (at, note) in place.store.checkpoints(&log, 0, 10).await.unwrap() {
        let text = if place.server.is_some() { "convert_from(?, 'UTF8')" } else { "CAST(? AS TEXT)" };
        let edit = format!("UPDATE checkpoint SET note = {text} WHERE place = {at}");
        values.push((note.into_bytes(), edit, &["checkpoint-edited", "foreign-key", "spliced"][..]));
    }
    for kind in [Kind::Key, Kind::Principal] {
        for object in place.store.rows(kind, "", 10).await.unwrap() {
            let edit = format!("UPDATE object SET body = ? WHERE name = '{}'", object.name);
            values.push((object.body.to_vec(), edit, &["row-edited"][..]));
        }
    }
    assert_eq!(values.len(), 4);
    for (value, edit, findings) in values {
        for byte in 0..value.len() {
            let mut changed = value.clone();
            changed[byte] ^= 0x01;
            raw.edit(edit.replace('?', &place.bytes(&changed))).await;
            let report = place.report().await;
            let finding = serde_json::to_value(report.finding).unwrap();
            assert!(findings.iter().any(|expected| finding == *expected), "{edit} {byte}: {report:?}");
        }
        raw.edit(edit.replace('?', &place.bytes(&value))).await;
    }
    assert_eq!(serde_json::to_value(place.report().await.finding).unwrap(), "good");
}

async fn what_was_done_to_records_checkpoints_and_rows_is_told_apart(place: Place) {
    let records = &place.records;
    let without = |gone: usize| {
        let mut records = records.clone();
        records.remove(gone);
        records
    };
    let swapped = |a: usize, b: usize| {
        let mut records = records.clone();
        records.swap(a, b);
        records
    };
    let mut inserted = records.clone();
    inserted.insert(3, records[2].clone());
    let mut moved = records.clone();
    let first = moved.remove(1);
    moved.insert(4, first);
    let log = place.store.head().log;
    let name = |record: &Vec<u8>| String::from_utf8(record.clone()).unwrap().replace(&log, "other").into_bytes();
    let other = mended(&records.iter().map(name).collect::<Vec<_>>(), 0);
    let other = [&records[..3], &other[3..]].concat();
    let back = mended(&with(records, 3, "\"time\":\"2", "\"time\":\"1"), 3);
    let unopened = mended(&without(1), 1);
    let edited = mended(&with(records, 1, "\"rule\":\"r\"", "\"rule\":\"q\""), 1);
    let mut torn = records.clone();
    torn[5].truncate(40);
    let longer = mended(&[&records[..], &records[5..]].concat(), 6);
    let of_log = if place.server.is_some() { "log_id, " } else { "" };
    let far = format!("INSERT INTO entry SELECT {of_log}1000000000000, {} FROM log", place.bytes(b"x"));
    let record = |records: &[Vec<u8>]| place.replaced(records);
    let foreign = Signer::new(&log);
    let (head, tree) = place.store.tree();
    let Checkpoint { root, chain, .. } =
        Checkpoint { log: log.clone(), size: 6, root: tree.root(), chain: head.chain, others: vec![] };
    let signed_by = |signer: &Signer, root| {
        let signed = Checkpoint { log: log.clone(), size: 6, root, chain, others: vec![] };
        format!("UPDATE checkpoint SET note = '{}' WHERE place = 1", signer.sign(signed.note().unwrap()))
    };
    let body = |kind: &str, from: &str, to: &str| {
        let body = match place.server {
            Some(_) => format!("convert_to(replace(convert_from(body, 'UTF8'), '{from}', '{to}'), 'UTF8')"),
            None => format!("CAST(replace(CAST(body AS TEXT), '{from}', '{to}') AS BLOB)"),
        };
        format!("UPDATE object SET body = {body} WHERE kind = '{kind}'")
    };
    for (what, edit, finding) in [
        ("nothing", "SELECT 1".to_owned(), "good"),
        ("first deleted", "DELETE FROM entry WHERE seq = 0".to_owned(), "deleted"),
        ("middle deleted", "DELETE FROM entry WHERE seq = 3".to_owned(), "deleted"),
        ("last deleted", "DELETE FROM entry WHERE seq = 5".to_owned(), "truncated"),
        ("middle deleted, and those behind it moved up", record(&without(3)), "deleted"),
        ("one twice", record(&inserted), "inserted"),
        ("one put behind the head", record(&longer), "extended"),
        ("something far behind the head", far, "edited"),
        ("one moved", record(&moved), "reordered"),
        ("two swapped", record(&swapped(2, 4)), "reordered"),
        ("of another log", record(&other), "spliced"),
        ("time runs back", record(&back), "time-back"),
        ("its intent taken out", record(&unopened), "unopened"),
        ("edited, and all behind it made to fit", record(&edited), "not-as-signed"),
        ("half a record", record(&torn), "edited"),
        ("signed by another key", signed_by(&foreign, root), "foreign-key"),
        (
            "another past signed by the right key",
            signed_by(&place.signer, keyward::audit::merkle::TreeHash([7; 32])),
            "not-as-signed",
        ),
        (
            "checkpoint edited",
            "UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0') WHERE place = 0".to_owned(),
            "checkpoint-edited",
        ),
        (
            "checkpoints in another order",
            "UPDATE checkpoint SET place = 2 WHERE place = 0; UPDATE checkpoint SET place = 0 WHERE place = 1; \
             UPDATE checkpoint SET place = 1 WHERE place = 2"
                .to_owned(),
            "checkpoint-edited",
        ),
        (
            "the checkpoint before it in the place of one",
            "UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE place = 0) WHERE place = 1".to_owned(),
            "checkpoint-missing",
        ),
        (
            "a checkpoint behind which there is no place",
            "INSERT INTO checkpoint SELECT log_id, 9223372036854775807, note FROM checkpoint WHERE place = 0"
                .to_owned(),
            "checkpoint-missing",
        ),
        ("checkpoint deleted", "DELETE FROM checkpoint WHERE place = 0".to_owned(), "checkpoint-missing"),
        ("last checkpoint deleted", "DELETE FROM checkpoint WHERE place = 1".to_owned(), "checkpoint-missing"),
        ("role", body("principal", "node", "operator"), "row-edited"),
        ("state", body("key", "active", "disabled"), "row-edited"),
        ("public key", body("key", "0a0b0c", "0a0b0d"), "row-edited"),
        ("row deleted", "DELETE FROM object WHERE kind = 'principal'".to_owned(), "row-missing"),
        (
            "row put in",
            "INSERT INTO object SELECT kind, 'nodes/x', version, body FROM kept_object WHERE kind = 'principal'"
                .to_owned(),
            "row-unrecorded",
        ),
    ] {
        place.found(what, &edit, finding);
    }
}

async fn a_database_of_an_earlier_time_is_found_by_what_was_signed_later(mut place: Place) {
    let early = Vouched { anchor: place.vouched.anchor.clone(), ..place.vouched.clone() };
    for table in ["log", "entry", "checkpoint"] {
        place.sql(&format!("CREATE TABLE old_{table} AS SELECT * FROM {table}"));
    }
    place.store.commit(Batch::event(Event::LogClosed {})).await.unwrap();
    let note = sign(place.store.as_ref(), &place.signer).await;
    let seen = place.vouched.trust.checkpoint(&note.parse().unwrap()).unwrap();
    place.store.close().await;
    let served = place.server.is_some();
    let put_back = |tables: &[&str]| {
        let back = tables.iter().map(|table| match *table {
            // Who takes over the log counts on.
            "log" if served => "UPDATE log SET size = o.size, chain = o.chain, time_us = o.time_us, \
                open_from = o.open_from, frontier = o.frontier FROM old_log o"
                .to_owned(),
            table => format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old_{table}"),
        });
        back.collect::<Vec<_>>().join("; ")
    };
    let later = Vouched { anchor: Some(note), ..place.vouched.clone() };
    let look = async |place: &mut Place, vouched: &Vouched, verifier: Verifier| -> (Value, String) {
        place.store = open(&place.directory, place.server.as_ref(), false).await.unwrap();
        let report = inspect(place.store.as_ref(), verifier, Some(vouched), &[]).await.unwrap();
        place.store.close().await;
        (serde_json::to_value(report.finding).unwrap(), format!("{report:?}"))
    };
    let (finding, report) = look(&mut place, &later, Verifier::new(None)).await;
    assert_eq!(finding, "good", "{report}");
    // Cut off, with the later checkpoints still there; and with the store's own ones put back too.
    let (cut, whole) = (put_back(&["log", "entry"]), put_back(&["log", "entry", "checkpoint"]));
    place.sql(&cut);
    let (finding, report) = look(&mut place, &early, Verifier::new(None)).await;
    assert_eq!(finding, "rewound", "{report}");
    place.sql(&whole);
    let (finding, report) = look(&mut place, &later, Verifier::new(None)).await;
    assert_eq!(finding, "rewound", "{report}");
    // With the anchor put back as well nothing here shows it; a checkpoint that somebody kept does.
    let (finding, report) = look(&mut place, &early, Verifier::new(None)).await;
    assert_eq!(finding, "good", "{report}");
    let (finding, report) = look(&mut place, &early, Verifier::new(None).seen(seen)).await;
    assert_eq!(finding, "truncated", "{report}");
    // An end that does not fit, as after a torn write, is not opened at all.
    place.sql("DELETE FROM entry WHERE seq = 5");
    let refused = open(&place.directory, place.server.as_ref(), false).await.map(drop).unwrap_err();
    assert_eq!(refused.reason(), keyward::error::Reason::RecordBroken, "{refused:?}");
}

async fn an_open_intent_that_the_head_passes_over_is_named(mut place: Place) {
    let act = ActNote::SignTlsCertificate { key: "k".into(), subject: "s".into(), digest: "sha256:00".into() };
    let intent = Event::Intent { caller: CallerNote::service(), rule: "r".into(), act };
    let open_seq = place.store.commit(Batch::event(intent)).await.unwrap();
    place.vouched.anchor = Some(sign(place.store.as_ref(), &place.signer).await);
    let report = place.report().await;
    assert_eq!((serde_json::to_value(report.finding).unwrap(), report.open_intents), ("good".into(), vec![open_seq]));
    place.store.close().await;
    place.sql("UPDATE log SET open_from = size");
    place.store = open(&place.directory, place.server.as_ref(), false).await.unwrap();
    let report = place.report().await;
    assert_eq!(serde_json::to_value(report.finding).unwrap(), "store-broken", "{report:?}");
    place.store.close().await;
    for nowhere in ["size + 1", "-1"] {
        place.sql(&format!("UPDATE log SET open_from = {nowhere}"));
        let refused = open(&place.directory, place.server.as_ref(), false).await.map(drop).unwrap_err();
        assert_eq!(refused.reason(), keyward::error::Reason::RecordBroken, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_its_instance_writes_and_signs_while_the_store_is_verified_is_not_called_rewound() {
    let place = Place::new(Some(Postgres::start())).await;
    let url = place.server.as_ref().unwrap().url();
    let other = keyward::store::Postgres::open(&url, None, "b", true).await.unwrap();
    let signer = Signer::new(&other.head().log);
    let trust = signer.trust(&other.head().log);
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let writes = tokio::spawn(async move {
        while ended.try_recv().is_err() {
            other.commit(Batch::event(Event::LogClosed {})).await.unwrap();
            sign(&other, &signer).await;
        }
        other.close().await;
    });
    for _ in 0..20 {
        let others = std::slice::from_ref(&trust);
        let report = inspect(place.store.as_ref(), Verifier::new(None), Some(&place.vouched), others).await.unwrap();
        let finding = serde_json::to_value(report.finding).unwrap();
        // Its last records may not be signed yet.
        assert!(finding == "good" || finding == "untrusted", "{report:?}");
    }
    end.send(()).unwrap();
    writes.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_nobody_has_signed_gives_up_nothing_that_was_signed_of_another_log() {
    let place = Place::new(Some(Postgres::start())).await;
    let server = place.server.as_ref().unwrap();
    let other = keyward::store::Postgres::open(&server.url(), None, "b", true).await.unwrap();
    let log = other.head().log;
    let signer = Signer::new(&log);
    for _ in 0..3 {
        other.commit(Batch { writes: vec![], events: vec![Event::LogClosed {}, Event::LogClosed {}] }).await.unwrap();
        sign(&other, &signer).await;
    }
    other.close().await;
    for table in ["log", "entry"] {
        server.sql(&format!("CREATE TABLE both_{table} AS SELECT * FROM {table}"));
    }
    for checkpoints in [None, Some(0), Some(2), Some(3), Some(1 << 40)] {
        let given_up = || re_anchored(checkpoints);
        let closed = || Event::LogClosed {};
        for (from, events, finding) in [
            (6, vec![given_up()], "untrusted"),
            (4, vec![given_up()], "rewound"),
            (5, vec![opened(), given_up()], "not-as-signed"),
            (3, vec![given_up(), closed(), closed(), closed()], "not-as-signed"),
            (3, vec![opened(), closed(), given_up(), closed(), closed()], "not-as-signed"),
        ] {
            rewrite(server, &log, from, &events).await;
            let others = [signer.trust(&log)];
            let report = inspect(place.store.as_ref(), Verifier::new(None), Some(&place.vouched), &others).await;
            let report = report.unwrap();
            assert_eq!(serde_json::to_value(report.finding).unwrap(), finding, "{checkpoints:?} {from}: {report:?}");
            for table in ["log", "entry"] {
                server.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM both_{table}"));
            }
        }
    }
}

/// Has an object changed, and new ones come into being, without end; one round of it.
async fn write_on(store: &dyn Store, round: u64) {
    let busy = Write::new(Kind::Key, "keys/busy", round, &json!({ "round": round })).unwrap();
    let new = Write::new(Kind::Key, &format!("keys/{round}"), 0, &json!({})).unwrap();
    store.commit(Batch { writes: vec![busy, new], events: vec![] }).await.unwrap();
}

async fn rows_are_told_apart_while_an_instance_writes(place: Place) {
    // On a server another instance does, in a file this one.
    let other = match &place.server {
        Some(server) => {
            let other = keyward::store::Postgres::open(&server.url(), None, "b", true).await.unwrap();
            Arc::new(other) as Arc<dyn Store>
        }
        None => Arc::clone(&place.store),
    };
    let trusts = match place.server {
        Some(_) => {
            other.commit(Batch::event(Event::LogClosed {})).await.unwrap();
            let signer = Signer::new(&other.head().log);
            sign(other.as_ref(), &signer).await;
            vec![signer.trust(&other.head().log)]
        }
        None => Vec::new(),
    };
    let put_in = "INSERT INTO object SELECT kind, 'nodes/x', 1, body FROM kept_object WHERE kind = 'principal'";
    let bumped = "UPDATE object SET version = version + 1 WHERE name = 'keys/k'";
    let (mut round, mut moved) = (0, 0);
    for (edit, undo, finding) in [
        ("SELECT 1", "SELECT 1", None),
        (put_in, "DELETE FROM object WHERE name = 'nodes/x'", Some("row-unrecorded")),
        (bumped, "UPDATE object SET version = 1 WHERE name = 'keys/k'", Some("row-edited")),
    ] {
        place.sql(edit);
        let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
        let writer = Arc::clone(&other);
        let writes = tokio::spawn(async move {
            while ended.try_recv().is_err() {
                write_on(writer.as_ref(), round).await;
                round += 1;
            }
            round
        });
        for _ in 0..10 {
            let before = other.head().size;
            let inspected = inspect(place.store.as_ref(), Verifier::new(None), Some(&place.vouched), &trusts);
            let report = inspected.await.unwrap();
            moved += u32::from(other.head().size > before);
            let found = serde_json::to_value(report.finding).unwrap();
            match finding {
                Some(finding) => assert_eq!(found, finding, "{report:?}"),
                // Its last records may not be signed yet. Nothing else is said of any row.
                None => assert!((found == "good" || found == "untrusted") && report.broken.is_none(), "{report:?}"),
            }
        }
        end.send(()).unwrap();
        round = writes.await.unwrap();
        place.sql(undo);
    }
    assert!(moved > 0, "something was written meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_file_are_told_apart_while_its_instance_writes() {
    rows_are_told_apart_while_an_instance_writes(Place::new(None).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_database_are_told_apart_while_another_instance_writes() {
    rows_are_told_apart_while_an_instance_writes(Place::new(Some(Postgres::start())).await).await;
}
