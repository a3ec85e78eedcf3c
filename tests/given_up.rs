//! Logs of other instances that are not what was signed, and the person who gives them up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::Connection as _;

use crate::kit::postgres::Postgres;
use crate::kit::{Instance, PATIENCE, events};
use crate::other_logs::{log_of, two, verified};

/// Gives up what has to be, by the words that are shown; gives what was shown.
fn re_anchored(instance: &Instance, why: &str) -> Value {
    let shown = instance.json(&["audit", "re-anchor"]);
    assert_eq!(shown["reason"], why, "{shown}");
    instance.cli(&["audit", "re-anchor", "--confirm", "yes"]).refused(65, "INVALID_ARGUMENT");
    instance.cli(&["audit", "re-anchor", "--confirm", shown["confirm"].as_str().unwrap()]).good();
    shown
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
    assert!(said[0]["message"].as_str().unwrap().contains(&format!("log {log} is given up, and ")), "{said:?}");
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
    assert!(said.contains("stop the instance whose log is given up"), "{said}");
    assert_eq!(fs::read_to_string(first.data().join("audit.anchor")).unwrap(), anchor);
    server.sql(&format!("UPDATE object SET version = version - 1 WHERE name = '{node}'"));
    re_anchored(&first, "OBJECT_ALTERED");
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
