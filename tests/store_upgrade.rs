//! Stores of instances that earlier schemas kept, and schemas that are not ours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use keyward::audit::note::Note;
use keyward::audit::trust::Trust;
use keyward::audit::verify::{self, Verifier};
use keyward::error::Reason;
use keyward::store::{Batch, Kind, Sqlite, Store};
use tempfile::TempDir;

use crate::kit::postgres::Postgres;

/// Makes a store file of a dump.
fn sqlite_of(dump: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let script = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).executescript(open(sys.argv[2]).read())";
    let made = Command::new("python3").args(["-c", script]).arg(&path).arg(vector(dump)).status().unwrap();
    assert!(made.success());
    (directory, path)
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store").join(name)
}

/// Holds the log and every object of a store against each other, and the log against the checkpoint that was signed over
/// it under the earlier schema.
async fn holds_what_was_signed(store: &dyn Store, vector_of: &str, objects_there: usize) {
    let text = |end: &str| std::fs::read_to_string(vector(&format!("{vector_of}.{end}"))).unwrap();
    let trust: Trust = text("trust").parse().unwrap();
    let note: Note = text("checkpoint").parse().unwrap();
    let checkpoint = trust.checkpoint(&note).unwrap();
    let mut lines = Vec::new();
    for bytes in store.entries(&store.head().log, 0, 1000).await.unwrap() {
        lines.extend(bytes);
        lines.push(b'\n');
    }
    let report = verify::export(lines.as_slice(), Verifier::new(Some(checkpoint))).unwrap();
    assert!(report.broken.is_none() && report.complete, "{report:?}");
    let mut objects = 0;
    for kind in Kind::ALL {
        objects += store.list(*kind, "", "", 100).await.unwrap().len();
    }
    assert_eq!(objects, objects_there);
}

#[tokio::test]
async fn files_of_schemas_2_and_3_are_brought_up_to_date_and_hold_what_was_signed() {
    for (of, records, objects) in [("sqlite-2-instance", 34, 8), ("sqlite-3-instance", 44, 10)] {
        let (_directory, path) = sqlite_of(&format!("{of}.sql"));
        for _ in 0..2 {
            let store = Sqlite::open(&path, false).await.unwrap();
            assert_eq!(store.head().size, records);
            holds_what_was_signed(&store, of, objects).await;
            store.commit(Batch { writes: vec![], events: vec![] }).await.unwrap();
            store.close().await;
        }
    }
}

#[tokio::test]
async fn databases_of_schemas_1_to_3_are_brought_up_to_date_and_hold_what_was_signed() {
    for (of, objects) in [("postgres-1-instance", 8), ("postgres-2-instance", 10), ("postgres-3-instance", 10)] {
        let server = Postgres::start();
        server.sql_file(&vector(&format!("{of}.sql")));
        for _ in 0..2 {
            let store = keyward::store::Postgres::open(&server.url(), None, "first", false).await.unwrap();
            holds_what_was_signed(&store, of, objects).await;
            store.close().await;
        }
    }
}

/// No version ever wrote schema 4 of a database: it came together with schema 5, which is taken away again.
#[tokio::test]
async fn a_database_between_two_migrations_is_brought_up_to_date_and_holds_what_was_signed() {
    let server = Postgres::start();
    server.sql_file(&vector("postgres-3-instance.sql"));
    for open_again in [true, false] {
        let store = keyward::store::Postgres::open(&server.url(), None, "first", false).await.unwrap();
        holds_what_was_signed(&store, "postgres-3-instance", 10).await;
        store.close().await;
        if open_again {
            server.sql("ALTER TABLE log DROP COLUMN holder; DELETE FROM _sqlx_migrations WHERE version > 4");
        }
    }
}

#[tokio::test]
async fn a_store_whose_migrations_are_not_ours_is_refused() {
    let (_directory, path) = sqlite_of("sqlite-2-instance.sql");
    let script = "import sqlite3,sys; d=sqlite3.connect(sys.argv[1]); \
                  d.execute(\"UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1\"); d.commit()";
    assert!(Command::new("python3").args(["-c", script]).arg(&path).status().unwrap().success());
    let fault = Sqlite::open(&path, false).await.map(drop).unwrap_err();
    assert_eq!(fault.reason(), Reason::StoreUnavailable);
    assert!(fault.message().contains("schema"), "{fault:?}");

    let server = Postgres::start();
    keyward::store::Postgres::open(&server.url(), None, "a", true).await.unwrap().close().await;
    server.sql("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1");
    let fault = keyward::store::Postgres::open(&server.url(), None, "a", false).await.map(drop).unwrap_err();
    assert_eq!(fault.reason(), Reason::StoreUnavailable);
    assert!(fault.message().contains("schema"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_that_start_together_on_an_earlier_schema_one_brings_it_up_to_date_and_the_other_waits() {
    let server = Postgres::start();
    server.sql_file(&vector("postgres-1-instance.sql"));
    std::thread::scope(|scope| {
        // For longer than any answer may take, nobody can change the table: so the one is at work, and the other waits.
        let held = scope.spawn(|| server.sql("BEGIN; LOCK TABLE log; SELECT pg_sleep(7); COMMIT"));
        std::thread::sleep(std::time::Duration::from_millis(500));
        let open = |name: &'static str, create| {
            let url = server.url();
            move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let store = keyward::store::Postgres::open(&url, None, name, create).await.unwrap();
                    if !create {
                        holds_what_was_signed(&store, "postgres-1-instance", 8).await;
                    }
                    store.commit(Batch::default()).await.unwrap();
                    store.close().await;
                });
            }
        };
        let opened = [scope.spawn(open("first", false)), scope.spawn(open("second", true))];
        opened.into_iter().for_each(|opened| opened.join().unwrap());
        held.join().unwrap();
    });
}
