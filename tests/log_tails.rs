//! What another log has behind its last checkpoint: nobody writes it anew unseen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use keyward::audit::chain::{ChainHash, Head};
use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::merkle::{Frontier, TreeHash};
use keyward::audit::record::{Event, Moment};
use keyward::caller::CallerNote;
use keyward::store::{Batch, Store as _};
use sqlx::Connection as _;

use crate::kit::postgres::Postgres;
use crate::kit::signer::Signer;
use crate::kit::{Instance, eventually, until_serving};
use crate::other_logs::{log_of, opened, put, two};

/// Writes the records of a log anew from a place on.
pub(crate) async fn rewrite(server: &Postgres, log: &str, from: u64, events: &[Event]) {
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let records = format!("SELECT record FROM entry WHERE log_id = '{log}' AND seq < {from} ORDER BY seq");
    let records: Vec<Vec<u8>> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(records)).fetch_all(&mut database).await.unwrap();
    let (mut head, mut tree) = (Head::empty(log), Frontier::default());
    for record in records {
        head.follow(&record).unwrap();
        tree.append(TreeHash::leaf(&record), |_, _, _| {});
    }
    server.sql(&format!("DELETE FROM entry WHERE log_id = '{log}' AND seq >= {from}"));
    for event in events {
        let seq = head.size;
        let record = head.append(&event.bytes().unwrap(), &Moment::of(head.time_us)).unwrap().bytes;
        tree.append(TreeHash::leaf(&record), |_, _, _| {});
        put(&mut database, &format!("INSERT INTO entry VALUES ('{log}', {seq}, $1)"), record).await;
    }
    let end = format!("size = {}, chain = '\\x{}', frontier = $1", head.size, head.chain);
    put(&mut database, &format!("UPDATE log SET {end} WHERE log_id = '{log}'"), tree.to_bytes()).await;
}

fn size_of(instance: &Instance) -> u64 {
    fs::read_to_string(instance.export().join("audit.checkpoint")).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_another_log_is_not_written_anew_though_the_checkpoint_over_it_is_taken_away() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let log = log_of(&second);
    let newest = format!("(SELECT max(place) FROM checkpoint WHERE log_id = '{log}')");
    let last: i64 = {
        let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        let last = format!("SELECT max(seq) FROM entry WHERE log_id = '{log}'");
        sqlx::query_scalar(sqlx::AssertSqlSafe(last)).fetch_one(&mut database).await.unwrap()
    };
    for table in ["log", "entry", "checkpoint"] {
        server.sql(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"));
    }
    let put_back = || {
        for table in ["log", "entry", "checkpoint"] {
            server.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}"));
        }
    };
    // The end of the log was signed for by the first.
    server.sql(&format!("DELETE FROM checkpoint WHERE log_id = '{log}' AND place = {newest}"));
    rewrite(&server, &log, last.unsigned_abs(), &[opened(), Event::LogClosed {}]).await;
    let said = first.serve_fails().refused(74, "STORE_FORKED");
    assert!(said.contains(&log), "{said}");
    put_back();
    // One record in the midst of what only the first has signed for, and not the last.
    server.sql(&format!(
        "DELETE FROM checkpoint WHERE log_id = '{log}' AND place = {newest}; \
         UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), 'local-operator', 'l0cal-operator'), \
         'UTF8') WHERE log_id = '{log}' AND seq < {last} AND seq >= (SELECT split_part(note, chr(10), 2)::bigint \
         FROM checkpoint WHERE log_id = '{log}' AND place = {newest})"
    ));
    let said = first.serve_fails().refused(74, "STORE_FORKED");
    assert!(said.contains(&log), "{said}");
    put_back();
    // Nothing that was ever signed is left.
    server.sql(&format!("DELETE FROM checkpoint WHERE log_id = '{log}'"));
    let said = first.serve_fails().refused(74, "CHECKPOINT_BROKEN");
    assert!(said.contains(&log), "{said}");
    put_back();
    // The same, with a stranger's in the place of what is gone.
    let note = strange(&log, 1);
    server.sql(&format!(
        "DELETE FROM checkpoint WHERE log_id = '{log}'; INSERT INTO checkpoint VALUES ('{log}', 5, '{note}')"
    ));
    let said = first.serve_fails().refused(74, "CHECKPOINT_BROKEN");
    assert!(said.contains(&log), "{said}");
    put_back();
    first.start();
}

/// A checkpoint of a log by a key that is nobody's.
fn strange(log: &str, size: u64) -> String {
    let (root, chain) = (TreeHash::empty(), ChainHash::ZERO);
    let strange = Checkpoint { log: log.to_owned(), size, root, chain, others: vec![] };
    Signer::new(log).sign(strange.note().unwrap()).to_string()
}

/// Two instances that run, of which the second has written, and its log.
fn side_by_side(server: &Postgres) -> (Instance, Instance, String) {
    let (mut first, mut second) = two(server);
    let log = log_of(&second);
    first.start();
    second.start();
    second.node("demo", "node-2");
    (first, second, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_log_that_counts_is_not_changed_unseen_beside_an_instance_that_runs() {
    let edits = [
        // The last one may not have been looked at yet.
        "UPDATE checkpoint SET note = 'NOTE' WHERE log_id = 'LOG' AND place >= (SELECT max(place) - 1 FROM checkpoint \
         WHERE log_id = 'LOG')",
        "UPDATE object SET body = body || ' ' WHERE name LIKE '%/beside/LOG'; INSERT INTO checkpoint \
         SELECT log_id, max(place) + 1, 'NOTE' FROM checkpoint WHERE log_id = 'LOG' GROUP BY log_id",
    ];
    for edit in edits {
        let server = Postgres::start();
        let (first, mut second, log) = side_by_side(&server);
        second.kill();
        assert!(first.is_serving("").await);
        server.sql(&edit.replace("LOG", &log).replace("NOTE", &strange(&log, 1)));
        until_serving(&first, false).await;
        assert_ne!(first.cli(&["key", "create", "demo"]).code, Some(0));
    }
}

/// Stops an instance in the midst of what only another one has signed for, which runs on, and writes that anew; before
/// that, if wanted, puts a checkpoint there that is none of that log's.
async fn rewrite_beside_one_that_runs(with_checkpoint: bool) {
    let server = Postgres::start();
    let (first, mut second, log) = side_by_side(&server);
    let signed = size_of(&second);
    second.node("demo", "node-3");
    second.kill();
    eventually("the first has signed for all that the second wrote", || {
        let checkpoint = fs::read_to_string(first.export().join("audit.checkpoint")).unwrap();
        let named = checkpoint.lines().find(|line| line.contains(&format!("other {log} "))).unwrap();
        named.split(' ').nth(2).unwrap().parse::<u64>().unwrap() > signed + 3
    });
    assert!(first.is_serving("").await);
    if with_checkpoint {
        let note = strange(&log, signed + 1);
        let place = format!("(SELECT max(place) + 1 FROM checkpoint WHERE log_id = '{log}')");
        server.sql(&format!("INSERT INTO checkpoint VALUES ('{log}', {place}, '{note}')"));
        let warned = || fs::read_to_string(first.path("serve.log")).unwrap().contains("counts as it did");
        eventually("it has looked at that checkpoint", warned);
    }
    rewrite(&server, &log, signed + 2, &[opened(), Event::LogClosed {}]).await;
    until_serving(&first, false).await;
    let said = first.cli(&["key", "create", "demo"]);
    assert_ne!(said.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unsigned_tail_of_a_log_is_not_written_anew_unseen_beside_an_instance_that_runs() {
    rewrite_beside_one_that_runs(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_counts_is_followed_on_though_its_last_checkpoint_is_none_of_its_own() {
    rewrite_beside_one_that_runs(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_log_has_behind_its_last_checkpoint_is_read_once_at_a_start() {
    const TAIL: u32 = 20_000;
    let server = Postgres::start();
    let (mut first, _second) = two(&server);
    let store = keyward::store::Postgres::open(&server.url(), None, "second", false).await.unwrap();
    let event = Event::Maintenance { caller: CallerNote::service(), purpose: "probe".into(), keys: Vec::new() };
    for _ in 0..TAIL / 1000 {
        store.commit(Batch { writes: Vec::new(), events: vec![event.clone(); 1000] }).await.unwrap();
    }
    store.close().await;
    server.sql("ANALYZE entry; SELECT pg_stat_reset()");
    first.start();
    assert_eq!(first.stop(), Some(0));
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let read = "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables WHERE relname = 'entry'";
    let read: i64 = sqlx::query_scalar(read).fetch_one(&mut database).await.unwrap();
    assert!((i64::from(TAIL)..i64::from(TAIL) * 3 / 2).contains(&read), "{read} records were read");
}
