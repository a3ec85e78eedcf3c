//! Logs of other instances that are not what was signed, and the person who gives them up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::store::{Batch, Kind, Seen, Store as _, Write};
use serde_json::Value;
use sqlx::Connection as _;

use crate::anchor::sqlite;
use crate::kit::postgres::Postgres;
use crate::kit::{Instance, KEYWARD, PATIENCE, events};
use crate::other_logs::{log_of, two, verified};

/// Gives up what has to be, by the words that are shown; gives what was shown.
fn re_anchored(instance: &Instance, why: &str) -> Value {
    re_anchored_with(instance, why, &[])
}

fn re_anchored_with(instance: &Instance, why: &str, more: &[&str]) -> Value {
    let shown = instance.json(&["audit", "re-anchor"]);
    assert_eq!(shown["reason"], why, "{shown}");
    instance.cli(&["audit", "re-anchor", "--confirm", "yes"]).refused(65, "INVALID_ARGUMENT");
    let confirmed = ["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()];
    instance.cli(&[&confirmed, more].concat()).good();
    shown
}

/// Whether such an object is among those that are shown, with its version and its hash.
fn is_among(objects: &Value, name: &str) -> bool {
    let objects = objects.as_array().unwrap();
    let shown = |object: &&Value| object["version"].is_u64() && object["sha256"].as_str().unwrap().len() == 64;
    objects.iter().filter(shown).any(|object| object["name"] == name)
}

#[test]
fn a_log_that_is_not_what_was_signed_is_given_up_by_a_person_who_takes_what_stands_by_it() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    let log = log_of(&second);
    let node = "clusters/demo/nodes/node-1";
    let stand_by = |shown: &Value| -> Vec<String> {
        assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
        let objects = shown["given_up"][0]["objects"].as_array().unwrap();
        objects.iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    };
    for table in ["checkpoint", "entry"] {
        server.sql(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"));
    }
    server.sql(&format!(
        "UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), 'local-operator', 'l0cal-operator'), \
         'UTF8') WHERE log_id = '{log}'"
    ));
    let said = first.serve_fails().refused(74, "STORE_FORKED");
    assert!(said.contains(&log) && said.contains("keyward audit re-anchor"), "{said}");
    let shown = re_anchored(&first, "STORE_FORKED");
    assert!(stand_by(&shown).contains(&node.to_owned()), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", node]).good();
    let own = first.log();
    let said = events(&own, "re-anchored");
    assert_eq!((said.len(), &said[0]["caller"]["name"]), (1, &"local-operator".into()));
    assert!(said[0]["message"].as_str().unwrap().contains(&format!("log {log} is given up: ")), "{said:?}");
    assert!(events(&own, "changed").iter().any(|event| event["name"] == node), "it is in the log of who took it");
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
    assert_eq!(
        (&report["beside"][0]["log"], &report["beside"][0]["finding"]),
        (&log.as_str().into(), &"edited".into())
    );
    // It counts no more, whatever becomes of it.
    server.sql(
        "UPDATE entry SET record = k.record FROM kept_entry k WHERE k.log_id = entry.log_id AND k.seq = entry.seq",
    );
    second.start();
    first.start();
    second.node("demo", "node-2");
    let late = "clusters/demo/nodes/node-2";
    first.cli(&["node", "get", late]).refused(74, "OBJECT_ALTERED");
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
    let shown = re_anchored(&first, "OBJECT_ALTERED");
    assert!(stand_by(&shown).contains(&late.to_owned()), "{shown}");
    first.start();
    first.cli(&["node", "get", late]).good();
}

#[test]
fn a_log_whose_checkpoint_was_edited_or_taken_away_is_given_up_by_a_person() {
    for (edit, why) in [
        ("UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0')", "CHECKPOINT_BROKEN"),
        ("DELETE FROM checkpoint", "CHECKPOINT_BROKEN"),
    ] {
        let server = Postgres::start();
        let (mut first, second) = two(&server);
        server.sql(&format!("{edit} WHERE log_id = '{}'", log_of(&second)));
        first.serve_fails().refused(74, why);
        re_anchored(&first, why);
        first.start();
        first.cli(&["node", "get", "clusters/demo/nodes/node-1"]).good();
    }
}

#[test]
fn a_log_of_which_what_was_seen_is_edited_is_given_up_by_a_person() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let log = log_of(&second);
    server.sql(&format!("UPDATE object SET body = body || ' ' WHERE name LIKE '%/beside/{log}'"));
    let said = first.serve_fails().refused(74, "OBJECT_ALTERED");
    assert!(said.contains(&log) && said.contains("keyward audit re-anchor"), "{said}");
    let shown = re_anchored(&first, "OBJECT_ALTERED");
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", "clusters/demo/nodes/node-1"]).good();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_when_an_object_changes_while_a_person_takes_it() {
    let server = Postgres::start();
    let (first, second) = two(&server);
    let log = log_of(&second);
    let node = "clusters/demo/nodes/node-1";
    server.sql(&format!(
        "UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), 'local-operator', 'l0cal-operator'), \
         'UTF8') WHERE log_id = '{log}'"
    ));
    let shown = first.json(&["audit", "re-anchor"]);
    let words = shown["confirm"].as_str().unwrap().to_owned();
    let anchor = fs::read_to_string(first.data().join("audit.anchor")).unwrap();
    let [mut database, mut server_sees] = [
        sqlx::PgConnection::connect(&server.url()).await.unwrap(),
        sqlx::PgConnection::connect(&server.url()).await.unwrap(),
    ];
    // Another instance changes it when the decision is recorded and it is not taken yet.
    let mut held = database.begin().await.unwrap();
    let change = format!("UPDATE object SET version = version + 1 WHERE name = '{node}'");
    sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut *held).await.unwrap();
    let decided = tokio::task::spawn_blocking(move || (first.cli(&["audit", "re-anchor", "--confirm", &words]), first));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keyward first%' \
                 AND wait_event_type = 'Lock'";
    let end = Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut server_sees).await.unwrap() == 0 {
        assert!(Instant::now() < end, "it is not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    held.commit().await.unwrap();
    let (ran, mut first) = decided.await.unwrap();
    let said = ran.refused(74, "STORE_CONFLICT");
    assert!(said.contains("stop every other instance"), "{said}");
    assert_eq!(fs::read_to_string(first.data().join("audit.anchor")).unwrap(), anchor);
    server.sql(&format!("UPDATE object SET version = version - 1 WHERE name = '{node}'"));
    re_anchored(&first, "STORE_FORKED");
    first.start();
    first.cli(&["node", "get", node]).good();
}

#[test]
fn what_stands_by_a_log_that_has_only_its_records_left_is_taken_by_a_person() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let (log, node) = (log_of(&second), "clusters/demo/nodes/node-1");
    server.sql(&format!("DELETE FROM log WHERE log_id = '{log}'"));
    first.serve_fails().refused(74, "LOG_MISSING");
    let shown = re_anchored(&first, "LOG_MISSING");
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", node]).good();
}

/// Takes out of the database what it has of a log.
fn take_out(server: &Postgres, log: &str, tables: &[&str]) {
    for table in tables {
        server.sql(&format!("DELETE FROM {table} WHERE log_id = '{log}'"));
    }
}

#[test]
fn what_a_log_that_was_taken_out_whole_had_told_of_is_taken_by_a_person_who_sees_that_no_record_tells_of_it() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let (log, node) = (log_of(&second), "clusters/demo/nodes/node-1");
    take_out(&server, &log, &["checkpoint", "subtree", "entry", "log"]);
    first.serve_fails().refused(74, "LOG_MISSING");
    // What a record contradicts is nobody's to take.
    server.sql("UPDATE object SET body = body || ' ' WHERE name = 'clusters/demo'");
    let said = first.cli(&["audit", "re-anchor"]).good();
    assert!(said.contains("no record tells of these") && said.contains("--lift"), "{said}");
    let words = said.rsplit_once("--confirm \"").unwrap().1.split('"').next().unwrap().to_owned();
    server.sql("UPDATE object SET body = substr(body, 1, length(body) - 1) WHERE name = 'clusters/demo'");
    assert_eq!(first.json(&["audit", "re-anchor"])["confirm"], words.as_str(), "it is among them either way");
    // The device was last logged in to by the other instance, and how it stands is not known.
    first.cli(&["audit", "re-anchor", "--confirm", &words]).refused(69, "PIN_LATCHED");
    server.sql(&format!(
        "UPDATE object SET body = replace(convert_from(body, 'UTF8'), 'node-1', 'node-x')::bytea WHERE name = '{node}'"
    ));
    first.cli(&["audit", "re-anchor", "--confirm", &words]).refused(65, "INVALID_ARGUMENT");
    server.sql(&format!(
        "UPDATE object SET body = replace(convert_from(body, 'UTF8'), 'node-x', 'node-1')::bytea WHERE name = '{node}'"
    ));
    let shown = re_anchored_with(&first, "LOG_MISSING", &["--lift", "main"]);
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    assert!(is_among(&shown["unrecorded"], node) && !is_among(&shown["unrecorded"], "clusters/demo"), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", node]).good();
    first.node("demo", "node-2");
    let said = events(&first.log(), "re-anchored")[0]["message"].clone();
    let taken = words.split_once(" taking ").unwrap().1;
    assert!(said.as_str().unwrap().contains(&format!("taken as they stand: {taken}")), "{said}");
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
    // Nothing is lost now: a row that no record tells of is nobody's to take.
    server.sql("INSERT INTO object SELECT kind, name || 'x', version, body FROM object WHERE name LIKE '%node-1'");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", &format!("{node}x")]).refused(74, "OBJECT_ALTERED");
}

#[test]
fn a_log_that_is_gone_with_what_was_seen_of_it_is_given_up_by_what_was_signed_of_it() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let (log, node) = (log_of(&second), "clusters/demo/nodes/node-1");
    take_out(&server, &log, &["log"]);
    server.sql(&format!("DELETE FROM object WHERE name = 'logs/{}/beside/{log}'", log_of(&first)));
    first.serve_fails().refused(74, "LOG_MISSING");
    let shown = re_anchored(&first, "LOG_MISSING");
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    assert!(is_among(&shown["given_up"][0]["objects"], node), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", node]).good();
}

#[test]
fn a_log_that_is_gone_and_was_only_told_of_since_the_last_checkpoint_is_missed_and_given_up() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start_with(&[("KEYWARD_FAULTPOINT", "after-told:other-logs")]);
    let second = Instance::beside(&first, "second");
    first.wait_for_line("faultpoint after-told:other-logs");
    first.kill();
    let log = log_of(&second);
    take_out(&server, &log, &["log"]);
    for seen in ["no", "as it was"] {
        if seen == "no" {
            server.sql("CREATE TABLE kept AS SELECT * FROM object; DELETE FROM object WHERE kind = 'log-beside'");
        } else {
            server.sql("INSERT INTO object SELECT * FROM kept WHERE kind = 'log-beside'");
        }
        let said = first.serve_fails().refused(74, "LOG_MISSING");
        assert!(said.contains(&log) && said.contains("keyward audit re-anchor"), "{said}");
    }
    let shown = re_anchored(&first, "LOG_MISSING");
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    first.start();
}

#[test]
fn what_the_lost_end_of_an_own_log_had_told_of_is_taken_by_a_person() {
    let mut instance = Instance::new();
    let older = instance.path("older.db");
    fs::copy(instance.data().join("keyward.db"), &older).unwrap();
    instance.start();
    instance.cluster("demo");
    assert_eq!(instance.stop(), Some(0));
    put_back(&instance, &older, &["checkpoint", "subtree", "entry", "log"]);
    instance.serve_fails().refused(74, "STORE_REWOUND");
    let shown = re_anchored_with(&instance, "STORE_REWOUND", &["--lift", "main"]);
    assert!(is_among(&shown["unrecorded"], "clusters/demo"), "{shown}");
    instance.start();
    instance.cli(&["cluster", "get", "demo"]).good();
    instance.node("demo", "node-1");
}

/// Has tables of the store be as they were in an older one.
fn put_back(instance: &Instance, older: &Path, tables: &[&str]) {
    let put = |table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old.{table};");
    let tables: String = tables.iter().map(put).collect();
    sqlite(instance, &format!("ATTACH '{}' AS old; {tables}", older.display()));
}

#[test]
fn an_own_log_that_goes_on_from_before_checkpoints_that_are_left_verifies() {
    let mut instance = Instance::new();
    let older = instance.path("older.db");
    fs::copy(instance.data().join("keyward.db"), &older).unwrap();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    put_back(&instance, &older, &["subtree", "entry", "log"]);
    instance.serve_fails().refused(74, "STORE_REWOUND");
    re_anchored_with(&instance, "STORE_REWOUND", &["--lift", "main"]);
    let mut over_it = 0;
    for _ in 0..2 {
        let (code, report) = verified(&instance, &[]);
        assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
        instance.start();
        over_it = events(&instance.log(), "re-anchored")[0]["checkpoints"].as_u64().unwrap();
        assert_eq!(instance.stop(), Some(0));
    }
    // What is signed since is held against the records as ever.
    for (edit, finding) in [
        ("UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0')", "checkpoint-edited"),
        ("DELETE FROM checkpoint", "checkpoint-missing"),
    ] {
        sqlite(&instance, &format!("{edit} WHERE place = {over_it}"));
        let (code, report) = verified(&instance, &[]);
        assert_eq!((code, &report["finding"]), (Some(1), &finding.into()), "{report}");
    }
}

#[test]
fn a_checkpoint_where_none_was_ever_put_is_to_be_removed_and_is_not_given_up() {
    let mut instance = Instance::new();
    sqlite(&instance, "INSERT INTO checkpoint SELECT log_id, 9223372036854775807, 'x' FROM log");
    instance.serve_fails().refused(74, "CHECKPOINT_BROKEN");
    let shown = instance.json(&["audit", "re-anchor"]);
    let decide = ["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()];
    let said = instance.cli(&decide).refused(74, "CHECKPOINT_BROKEN");
    assert!(said.contains("at place 9223372036854775807"), "{said}");
    sqlite(&instance, "DELETE FROM checkpoint WHERE note = 'x'");
    instance.start();
    assert!(events(&instance.log(), "re-anchored").is_empty());
}

#[test]
fn an_own_log_goes_on_from_before_its_audit_key_was_changed_with_the_history_of_that_time_only() {
    let mut instance = Instance::new();
    let (store, trust) = (instance.data().join("keyward.db"), instance.data().join("audit.trust"));
    let older = [&store, &trust].map(|file| fs::read(file).unwrap());
    instance.start();
    instance.cli(&["audit", "rotate-key"]).good();
    assert_eq!(instance.stop(), Some(0));
    fs::write(&store, &older[0]).unwrap();
    instance.serve_fails().refused(74, "STORE_REWOUND");
    let shown = instance.json(&["audit", "re-anchor"]);
    let decide = ["audit", "re-anchor", "--lift", "main", "--confirm", shown["confirm"].as_str().unwrap()];
    let said = instance.cli(&decide).refused(78, "CONFIG_INVALID");
    assert!(said.contains("bring back the audit.trust of the time of the store"), "{said}");
    fs::write(&trust, &older[1]).unwrap();
    instance.serve_fails().refused(78, "ANCHOR_INVALID");
    re_anchored_with(&instance, "ANCHOR_INVALID", &["--lift", "main"]);
    instance.start();
    assert_eq!(events(&instance.log(), "re-anchored").len(), 1);
    instance.cli(&["audit", "rotate-key"]).good();
    assert_eq!(instance.stop(), Some(0));
    let (code, report) = verified(&instance, &[]);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
}

/// Decides as the words say that are shown, and kills that at a point.
fn killed_at(instance: &Instance, point: &str) {
    let shown = instance.json(&["audit", "re-anchor"]);
    let data = instance.data();
    let words = shown["confirm"].as_str().unwrap();
    let mut decides = Command::new(KEYWARD)
        .args(["audit", "re-anchor", "--lift", "main", "--confirm", words, "--data", data.to_str().unwrap()])
        .env("KEYWARD_FAULTPOINT", point)
        .current_dir(instance.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(decides.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == format!("faultpoint {point}")), "{point} is not reached");
    decides.kill().unwrap();
    decides.wait().unwrap();
}

#[test]
fn killed_at_any_point_a_decision_leaves_a_store_that_is_refused_as_before_and_is_made_once_more() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let (log, node) = (log_of(&second), "clusters/demo/nodes/node-1");
    take_out(&server, &log, &["checkpoint", "subtree", "entry", "log"]);
    for point in [
        "before-record:re-anchor",
        "after-record:re-anchor",
        "after-taken:re-anchor",
        "after-given-up:re-anchor",
        "after-kept:checkpoint",
    ] {
        killed_at(&first, point);
        first.serve_fails().refused(74, "LOG_MISSING");
    }
    re_anchored(&first, "LOG_MISSING");
    first.start();
    first.cli(&["node", "get", node]).good();
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
}

#[test]
fn killed_before_it_is_signed_a_decision_about_a_log_that_was_edited_is_made_once_more() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let (log, node) = (log_of(&second), "clusters/demo/nodes/node-1");
    server.sql(&format!(
        "UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), 'local-operator', 'l0cal-operator'), \
         'UTF8') WHERE log_id = '{log}'"
    ));
    for point in ["after-record:re-anchor", "after-taken:re-anchor"] {
        killed_at(&first, point);
        first.serve_fails().refused(74, "STORE_FORKED");
    }
    // All is taken, and what was signed last still names that log.
    killed_at(&first, "after-given-up:re-anchor");
    let said = first.serve_fails().refused(74, "LOG_MISSING");
    assert!(said.contains("was given up") && said.contains("keyward audit re-anchor"), "{said}");
    let shown = re_anchored(&first, "LOG_MISSING");
    assert_eq!(shown["given_up"][0]["log"], log.as_str(), "{shown}");
    first.cli(&["audit", "re-anchor"]).refused(65, "INVALID_ARGUMENT");
    first.start();
    first.cli(&["node", "get", node]).good();
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_than_a_thousand_logs_that_were_seen_the_last_is_missed_too() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let own = log_of(&first);
    let store = keyward::store::Postgres::open(&server.url(), None, "first", false).await.unwrap();
    let seen = |log: &str, given_up| {
        Write::new(Kind::Beside, &Seen::name(&own, log), 0, &Seen { given_up, ..Seen::default() }).unwrap()
    };
    let gone = "ffffffff-2222-4333-8444-555555555555";
    let writes =
        (0..1100).map(|n| seen(&format!("{n:08}-2222-4333-8444-555555555555"), true)).chain([seen(gone, false)]);
    store.commit(Batch { writes: writes.collect(), events: Vec::new() }).await.unwrap();
    store.close().await;
    let said = first.serve_fails().refused(74, "LOG_MISSING");
    assert!(said.contains(gone), "{said}");
    assert_eq!(re_anchored(&first, "LOG_MISSING")["given_up"][0]["log"], gone);
    first.start();
}
