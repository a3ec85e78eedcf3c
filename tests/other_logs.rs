//! The other logs of a database: which of them count, and what whoever writes into the database cannot do to them unseen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use keyward::audit::chain::{ChainHash, Head};
use keyward::audit::checkpoint::Checkpoint;
use keyward::audit::merkle::{Frontier, TreeHash};
use keyward::audit::record::{Event, Moment};
use keyward::caller::CallerNote;
use keyward::custody::Standing;
use keyward::store::{Kind, Write};
use serde_json::Value;
use sqlx::Connection as _;

use crate::kit::postgres::Postgres;
use crate::kit::signer::Signer;
use crate::kit::{Instance, PATIENCE, Ran, events, eventually};
use crate::tokens::{becomes, kill_host};

/// Two instances on one database that ran beside each other, the first with a cluster, and both stopped.
pub(crate) fn two(server: &Postgres) -> (Instance, Instance) {
    let mut first = Instance::in_database(server, "first");
    let mut second = Instance::beside(&first, "second");
    server.sql("CREATE TABLE old_log AS SELECT * FROM log; CREATE TABLE old_entry AS SELECT * FROM entry");
    first.start();
    second.start();
    first.cluster("demo");
    second.node("demo", "node-1");
    assert_eq!(second.stop(), Some(0));
    told_closed(&first);
    assert_eq!(first.stop(), Some(0));
    (first, second)
}

/// Waits until an instance has told that the other one's run ended.
fn told_closed(instance: &Instance) {
    eventually("it tells that the other log was closed", || {
        let log = instance.log();
        events(&log, "other-log").last().is_some_and(|event| event["state"] == "closed")
    });
}

/// The identity of an instance's log.
pub(crate) fn log_of(instance: &Instance) -> String {
    let trust = fs::read_to_string(instance.data().join("audit.trust")).unwrap();
    trust.lines().nth(1).unwrap().strip_prefix("keyward/log/").unwrap().to_owned()
}

/// What the verifier says of the store; its exit code and its report.
pub(crate) fn verified(instance: &Instance, more: &[&str]) -> (Option<i32>, Value) {
    let Ran { code, stdout, stderr } = instance.cli(&[&["audit", "verify", "--output", "json"], more].concat());
    let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout} {stderr}"));
    (code, report)
}

/// Invents a log: whole, with its head, signed by a key that a row calls its audit key, and with a change of `clusters/demo`.
/// Gives its checkpoint and its trust.
async fn invent(database: &mut sqlx::PgConnection, log: &str) -> (String, String) {
    let row = "SELECT body, version FROM object WHERE name = $1";
    let (cluster, version): (Vec<u8>, i64) =
        sqlx::query_as(row).bind("clusters/demo").fetch_one(&mut *database).await.unwrap();
    let (key, _): (Vec<u8>, i64) = sqlx::query_as(row).bind("keys/audit").fetch_one(&mut *database).await.unwrap();
    let signer = Signer::new(log);
    let name = format!("keys/audit-{log}");
    let mut key: Value = serde_json::from_slice(&key).unwrap();
    key["name"] = name.clone().into();
    key["public"] = serde_json::to_value(signer.key.public_key()).unwrap();
    let key = serde_json_canonicalizer::to_vec(&key).unwrap();
    let cluster = String::from_utf8(cluster).unwrap().replace("demo.example", "evil.example").into_bytes();
    let events = [opened(), changed("key", &name, 1, &key), changed("cluster", "clusters/demo", version + 1, &cluster)];
    let made = write_log(database, &signer, log, &events).await;
    put(database, &format!("INSERT INTO object VALUES ('key', '{name}', 1, $1)"), key).await;
    let edit = "UPDATE object SET version = version + 1, body = $1 WHERE name = 'clusters/demo'";
    put(database, edit, cluster).await;
    made
}

/// Invents a log that says that this and no more holds a device back.
async fn invent_standing(server: &Postgres, log: &str, device: &str, standing: &Standing) {
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let row = "SELECT version FROM object WHERE name = $1";
    let version: i64 = sqlx::query_scalar(row).bind(device).fetch_one(&mut database).await.unwrap();
    let body = Write::new(Kind::Token, device, 0, standing).unwrap().body.to_vec();
    let events = [opened(), changed("token", device, version + 1, &body)];
    write_log(&mut database, &Signer::new(log), log, &events).await;
    let edit = format!("UPDATE object SET version = version + 1, body = $1 WHERE name = '{device}'");
    put(&mut database, &edit, body).await;
}

pub(crate) fn opened() -> Event {
    Event::LogOpened { version: "0.1.0".into(), tokens: vec!["main: x".into()] }
}

fn changed(object: &str, name: &str, version: i64, body: &[u8]) -> Event {
    let sha256 = ChainHash::of(body).to_string();
    Event::Changed { object: object.into(), name: name.into(), version: version.unsigned_abs(), sha256 }
}

pub(crate) async fn put(database: &mut sqlx::PgConnection, statement: &str, value: Vec<u8>) {
    sqlx::query(sqlx::AssertSqlSafe(statement)).bind(value).execute(database).await.unwrap();
}

/// Writes a log past all instances: whole, with its head, and signed. Gives its checkpoint and its trust.
async fn write_log(
    database: &mut sqlx::PgConnection,
    signer: &Signer,
    log: &str,
    events: &[Event],
) -> (String, String) {
    let (mut head, mut tree) = (Head::empty(log), Frontier::default());
    for event in events {
        let seq = head.size;
        let record = head.append(&event.bytes().unwrap(), &Moment::of(1_795_512_600_000_001)).unwrap().bytes;
        tree.append(TreeHash::leaf(&record), |_, _, _| {});
        put(database, &format!("INSERT INTO entry (log_id, seq, record) VALUES ('{log}', {seq}, $1)"), record).await;
    }
    let signed = Checkpoint { log: log.into(), size: head.size, root: tree.root(), chain: head.chain, others: vec![] };
    let note = signer.sign(signed.note().unwrap()).to_string();
    let keep = format!("INSERT INTO checkpoint VALUES ('{log}', 0, convert_from($1, 'UTF8'))");
    put(database, &keep, note.clone().into_bytes()).await;
    let end = format!(
        "INSERT INTO log (log_id, instance, epoch, size, chain, time_us, open_from, frontier) \
         VALUES ('{log}', 'of {log}', 1, {size}, '\\x{}', {}, {size}, $1)",
        head.chain,
        head.time_us,
        size = head.size
    );
    put(database, &end, tree.to_bytes()).await;
    (note, signer.trust(log).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_invented_with_its_audit_key_counts_nowhere_and_is_named() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    first.cluster("demo");
    let log = "11111111-2222-4333-8444-555555555555";
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    invent(&mut database, log).await;
    let said = first.cli(&["cluster", "get", "demo"]).refused(74, "OBJECT_ALTERED");
    assert!(said.contains(log) && said.contains("not signed by an audit key of this custody"), "{said}");
    assert!(events(&first.log(), "other-log").is_empty(), "nothing is told of it");
    let checkpoint = fs::read_to_string(first.export().join("audit.checkpoint")).unwrap();
    assert!(!checkpoint.contains("other "), "{checkpoint}");
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(1), &"row-edited".into()), "{report}");
    assert_eq!((&report["beside"][0]["log"], &report["beside"][0]["finding"]), (&log.into(), &"untrusted".into()));
    // Nor does the next run take it.
    first.start();
    first.cli(&["cluster", "get", "demo"]).refused(74, "OBJECT_ALTERED");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_log_that_begins_while_the_verifier_reads_are_not_called_edited() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    first.cluster("demo");
    assert_eq!(first.stop(), Some(0));
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    // The logs are read, and the rows are not yet.
    let mut held = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE object IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let verifies = tokio::task::spawn_blocking(move || (verified(&first, &[]), first));
    waits_for_lock(&server).await;
    let log = "11111111-2222-4333-8444-555555555555";
    invent(&mut held, log).await;
    held.commit().await.unwrap();
    let ((code, report), first) = verifies.await.unwrap();
    assert_eq!((code, &report["finding"]), (Some(2), &"untrusted".into()), "{report}");
    assert!(report["broken"]["message"].as_str().unwrap().contains(log), "{report}");
    // By now it is there, and nobody vouches for it.
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(1), &"row-edited".into()), "{report}");
}

/// Waits until the first instance, or a command in its name, waits to read what is locked.
async fn waits_for_lock(server: &Postgres) {
    let mut server_sees = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keyward first%' \
                 AND wait_event_type = 'Lock' AND query LIKE 'SELECT%'";
    let end = Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut server_sees).await.unwrap() == 0 {
        assert!(Instant::now() < end, "nobody looks");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How records name the device of a stopped instance.
fn device(instance: &Instance) -> String {
    let token = instance.json(&["token", "list"])[0].clone();
    format!("{} serial {}", token["label"].as_str().unwrap(), token["serial"].as_str().unwrap())
}

/// Records in the log of a stopped instance what holds its device back.
async fn hold_back(server: &Postgres, instance: &str, device: &str, hold: impl Fn(&mut Standing)) {
    let store = keyward::store::Postgres::open(&server.url(), None, instance, false).await.unwrap();
    Standing::change(&store, device, "latched", &CallerNote::service(), "", hold).await.unwrap();
    keyward::store::Store::close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_count_takes_no_hold_off_a_token_and_keeps_no_person_from_it() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let device = device(&first);
    let (latched, quarantined) = ("the PIN was refused", "a wrong signature");
    hold_back(&server, "first", &device, |standing| standing.latched = Some(latched.into())).await;
    hold_back(&server, "first", &device, |standing| standing.quarantined = Some(quarantined.into())).await;
    invent_standing(&server, "11111111-2222-4333-8444-555555555555", &device, &Standing::default()).await;
    let logins = "SELECT count(*) FROM entry WHERE position(convert_to('login-begun', 'UTF8') IN record) > 0";
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let before: i64 = sqlx::query_scalar(logins).fetch_one(&mut database).await.unwrap();
    first.start_waiting();
    let main = first.json(&["token", "status"])[0].clone();
    for hold in ["latched", "quarantined"] {
        assert!(main[hold].as_str().unwrap().contains("11111111-"), "{main}");
    }
    let after: i64 = sqlx::query_scalar(logins).fetch_one(&mut database).await.unwrap();
    assert_eq!(before, after, "the PIN was not tried");
    first.cli(&["token", "unlatch", "main"]).good();
    first.cli(&["token", "release", "main"]).good();
    first.cli(&["token", "login", "main"]).good();
    first.wait_for_line("ready");
    // Nor while an instance runs.
    assert_eq!(first.stop(), Some(0));
    hold_back(&server, "first", &device, |standing| standing.quarantined = Some(quarantined.into())).await;
    first.start_waiting();
    invent_standing(&server, "22222222-2222-4333-8444-555555555555", &device, &Standing::default()).await;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(first.json(&["token", "status"])[0]["health"], "quarantined");
    first.cli(&["token", "release", "main"]).good();
    first.wait_for_line("ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_that_a_log_which_does_not_count_claims_and_takes_back_stands_once_an_instance_has_kept_to_it() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    let (device, own) = (device(&first), log_of(&first));
    let latched = Standing { latched: Some("the PIN was refused".into()), quarantined: None };
    invent_standing(&server, "11111111-2222-4333-8444-555555555555", &device, &latched).await;
    // The login is lost, and somebody wants something of the token.
    kill_host(&first, "main");
    let request = first.path("request.xml");
    let url = ["--url", "https://demo.example.test", "--offline", "--request", request.to_str().unwrap()];
    let create = [&["cluster", "create", "demo"], &url[..]].concat();
    eventually("its token waits", || first.cli(&create).stderr.contains("[TOKEN_WAITING]"));
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let mut count = async |state: &str| -> i64 {
        let count = format!(
            "SELECT count(*) FROM entry WHERE log_id = '{own}' AND position(convert_to('\"{state}\"', 'UTF8') IN record) > 0"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut database).await.unwrap()
    };
    let end = Instant::now() + PATIENCE;
    while count("latched").await == 0 {
        assert!(Instant::now() < end, "it does not become a latch of this instance's own");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let logins = count("login-begun").await;
    invent_standing(&server, "22222222-2222-4333-8444-555555555555", &device, &Standing::default()).await;
    first.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    assert_eq!(count("login-begun").await, logins, "the PIN was not tried");
    first.cli(&["token", "unlatch", "main"]).good();
    first.cli(&["token", "release", "main"]).good();
    first.cli(&["token", "login", "main"]).good();
    becomes(&first, "main", "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_another_instance_has_ended_does_not_hold_in_one_that_has_seen_who_signs_for_that_log() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    let device = device(&first);
    hold_back(&server, "second", &device, |standing| standing.latched = Some("the PIN was refused".into())).await;
    first.start_waiting();
    first.cli(&["token", "unlatch", "main"]).good();
    first.cli(&["token", "login", "main"]).good();
    first.wait_for_line("ready");
    assert_eq!(first.stop(), Some(0));
    second.start();
}

#[test]
fn what_was_done_to_the_log_of_another_instance_is_found_by_the_verifier_and_named_with_that_log() {
    let server = Postgres::start();
    let (first, second) = two(&server);
    let log = log_of(&second);
    let tables = ["log", "entry", "checkpoint"];
    for table in tables {
        server.sql(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"));
    }
    let edit = |of: &str| {
        let text = "convert_to(replace(convert_from(record, 'UTF8'), '\"v\":1', '\"v\":1 '), 'UTF8')";
        format!("UPDATE entry SET record = {text} WHERE log_id = '{log}' AND seq = {of}")
    };
    let newest = format!("(SELECT max(place) FROM checkpoint WHERE log_id = '{log}')");
    let last = format!("(SELECT max(seq) FROM entry WHERE log_id = '{log}')");
    let later = edit(&last).replace("'\"v\":1', '\"v\":1 '", "'\"time\":\"2', '\"time\":\"3'");
    let all = |tables: &[&str]| {
        let gone = tables.iter().map(|table| format!("DELETE FROM {table} WHERE log_id = '{log}'"));
        gone.collect::<Vec<_>>().join("; ")
    };
    let put_back =
        ["log", "entry"].map(|table| format!("INSERT INTO {table} SELECT * FROM old_{table} WHERE log_id = '{log}'"));
    for (what, finding) in [
        ("SELECT 1".to_owned(), "good"),
        (edit("9"), "edited"),
        (format!("DELETE FROM entry WHERE log_id = '{log}' AND seq = 4"), "deleted"),
        (format!("DELETE FROM entry WHERE log_id = '{log}' AND seq = {last}"), "truncated"),
        (
            format!("UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0') WHERE log_id = '{log}'"),
            "checkpoint-edited",
        ),
        (format!("DELETE FROM checkpoint WHERE log_id = '{log}' AND place = 0"), "checkpoint-missing"),
        (later.clone(), "not-as-signed"),
        // Only what the first log says of it still shows these.
        (format!("{later}; {}", all(&["checkpoint"])), "forked"),
        (all(&["checkpoint"]), "checkpoint-missing"),
        (format!("DELETE FROM checkpoint WHERE log_id = '{log}' AND place = {newest}"), "untrusted"),
        (format!("{}; {}", all(&tables), put_back.join("; ")), "log-missing"),
        (all(&tables), "log-missing"),
    ] {
        server.sql(&what);
        let (code, report) = verified(&first, &[]);
        let expected = match finding {
            "good" => 0,
            "untrusted" => 2,
            _ => 1,
        };
        assert_eq!((code, &report["finding"]), (Some(expected), &finding.into()), "{what}: {report}");
        let words = report["broken"]["message"].as_str().unwrap_or(&log);
        assert!(words.contains(&log), "{what}: {words}");
        for table in tables {
            let undo =
                format!("DELETE FROM {table} WHERE log_id = '{log}'; INSERT INTO {table} SELECT * FROM kept_{table}");
            server.sql(&format!("{undo} WHERE log_id = '{log}'"));
        }
    }
}

#[test]
fn an_instance_does_not_start_beside_a_log_that_is_not_as_it_was_signed() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let log = log_of(&second);
    server.sql("CREATE TABLE kept AS SELECT * FROM checkpoint; CREATE TABLE kept_entry AS SELECT * FROM entry");
    server.sql(&format!("UPDATE checkpoint SET note = replace(note, 'chain ', 'chain 0') WHERE log_id = '{log}'"));
    let said = first.serve_fails().refused(74, "CHECKPOINT_BROKEN");
    assert!(said.contains(&log), "{said}");
    server.sql("DELETE FROM checkpoint; INSERT INTO checkpoint SELECT * FROM kept");
    server.sql(&format!(
        "UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), 'local-operator', 'l0cal-operator'), \
         'UTF8') WHERE log_id = '{log}'"
    ));
    let said = first.serve_fails().refused(74, "STORE_FORKED");
    assert!(said.contains(&log), "{said}");
    server.sql(
        "UPDATE entry SET record = k.record FROM kept_entry k WHERE k.log_id = entry.log_id AND k.seq = entry.seq",
    );
    first.start();
}

#[test]
fn a_later_audit_key_of_another_instance_counts_once_the_token_shows_it() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    first.start();
    second.start();
    second.cli(&["audit", "rotate-key"]).good();
    second.node("demo", "node-2");
    first.cli(&["node", "get", "clusters/demo/nodes/node-2"]).good();
    assert_eq!(second.stop(), Some(0));
    eventually("the first has seen the key", || {
        let log = first.log();
        let seen = |event: &&Value| event["object"] == "log-beside" && event["version"] == 2;
        events(&log, "changed").iter().any(seen)
    });
    assert_eq!(first.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!(code, Some(0), "{report}");
    // Without all that it has signed, the log is still as it was signed before.
    let key = "left(split_part(split_part(note, E'\\n— ', 2), ' ', 2), 5)";
    let checkpoints = format!("checkpoint WHERE log_id = '{}'", log_of(&second));
    server.sql("CREATE TABLE kept AS SELECT * FROM checkpoint");
    server.sql(&format!("DELETE FROM {checkpoints} AND {key} <> (SELECT {key} FROM {checkpoints} AND place = 0)"));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(1), &"checkpoint-missing".into()), "{report}");
    server.sql("INSERT INTO checkpoint SELECT * FROM kept ON CONFLICT DO NOTHING");
    // One that signs for the first time while nobody looks is not known to be its.
    second.start();
    second.cli(&["audit", "rotate-key"]).good();
    assert_eq!(second.stop(), Some(0));
    let (code, report) = verified(&first, &[]);
    assert_eq!((code, &report["finding"]), (Some(2), &"untrusted".into()), "{report}");
    let [own, other] = [&first, &second].map(|instance| instance.data().join("audit.trust"));
    let trusted = ["--trust", own.to_str().unwrap(), "--trust", other.to_str().unwrap()];
    let (code, report) = verified(&first, &trusted);
    assert_eq!((code, &report["finding"]), (Some(0), &"good".into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_commits_and_signs_while_another_one_looks_is_not_accused() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    first.start();
    first.cluster("demo");
    let mut second = Instance::beside(&first, "second");
    assert_eq!(first.stop(), Some(0));
    second.start();
    let log = log_of(&second);
    let tables = ["log", "entry", "subtree", "checkpoint"];
    let keep = |when: &str| {
        server.sql(&tables.map(|t| format!("CREATE TABLE {when}_{t} AS SELECT * FROM {t}")).join("; "));
    };
    let put = |when: &str| {
        let put = |t| {
            format!(
                "DELETE FROM {t} WHERE log_id = '{log}'; INSERT INTO {t} SELECT * FROM {when}_{t} WHERE log_id = '{log}'"
            )
        };
        tables.map(put).join("; ")
    };
    // The end of the second's run happens between two reads of one look of the first.
    second.node("demo", "node-1");
    keep("running");
    assert_eq!(second.stop(), Some(0));
    keep("ended");
    server.sql(&put("running"));
    first.start();
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let mut held = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE checkpoint IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    waits_for_lock(&server).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(put("ended"))).execute(&mut *held).await.unwrap();
    held.commit().await.unwrap();
    told_closed(&first);
    first.cli(&["node", "get", "clusters/demo/nodes/node-1"]).good();
    first.node("demo", "node-2");
}

#[test]
fn an_instance_that_has_not_seen_the_audit_key_of_another_one_waits_for_its_token_with_operators_served() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    first.start();
    first.cli(&["audit", "rotate-key"]).good();
    assert_eq!(first.stop(), Some(0));
    // The second's token cannot be asked for the key.
    let pin = first.data().join("pins/main.user");
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    second.start_waiting();
    assert!(!second.json(&["token", "status"])[0]["latched"].as_str().unwrap().is_empty());
    // By what was signed with the key before, that log counts all the same.
    second.cli(&["cluster", "get", "demo"]).good();
    fs::write(&pin, right).unwrap();
    second.cli(&["token", "unlatch", "main"]).good();
    second.cli(&["token", "login", "main"]).good();
    second.wait_for_line("ready");
    second.cli(&["node", "get", "clusters/demo/nodes/node-1"]).good();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_an_instance_countersigned_does_not_count_by_that_signature_under_another_name() {
    let server = Postgres::start();
    let (mut first, mut second) = two(&server);
    first.start();
    second.start();
    let log = "11111111-2222-4333-8444-555555555555";
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let (note, trust) = invent(&mut database, log).await;
    let [checkpoint, trusted, signed] = ["checkpoint", "trust", "signed"].map(|name| second.path(name));
    fs::write(&checkpoint, note).unwrap();
    fs::write(&trusted, trust).unwrap();
    let [checkpoint, trusted, out] = [&checkpoint, &trusted, &signed].map(|path| path.to_str().unwrap());
    second.cli(&["audit", "countersign", checkpoint, "--trust", trusted, "--out", out]).good();
    let countersigned = fs::read_to_string(&signed).unwrap();
    let by = format!("keyward/log/{}", log_of(&second));
    let (text, lines) = countersigned[countersigned.find("keyward").unwrap()..].rsplit_once("\n\n").unwrap();
    let line = lines.lines().find(|line| line.contains(&by)).unwrap();
    let line = line.replace(&by, &format!("keyward/log/{log}"));
    server.sql(&format!("UPDATE checkpoint SET note = '{text}\n\n{line}\n' WHERE log_id = '{log}'"));
    // Once it tells of this, it has looked at all of them.
    assert_eq!(second.stop(), Some(0));
    told_closed(&first);
    let own = first.log();
    assert!(events(&own, "other-log").iter().all(|event| event["log"] != log), "nothing is told of it");
    first.cli(&["cluster", "get", "demo"]).refused(74, "OBJECT_ALTERED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoints_of_a_log_that_does_not_count_are_looked_through_once_in_a_run() {
    let server = Postgres::start();
    let (mut first, second) = two(&server);
    let log = log_of(&second);
    let (root, chain) = (TreeHash::empty(), ChainHash::ZERO);
    let strange = Checkpoint { log: log.clone(), size: 1, root, chain, others: vec![] };
    let note = Signer::new(&log).sign(strange.note().unwrap());
    let last = format!("SELECT max(place) FROM checkpoint WHERE log_id = '{log}'");
    let more = format!("SELECT '{log}', ({last}) + n, '{note}' FROM generate_series(1, 100001) n");
    server.sql(&format!("INSERT INTO checkpoint {more}; ANALYZE checkpoint"));
    first.start();
    let said = fs::read_to_string(first.path("serve.log")).unwrap();
    assert!(said.contains(&format!("log {log} of the database does not count")), "{said}");
    // There is a look each second.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut database = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let read = "SELECT (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables \
                WHERE relname = 'checkpoint'";
    let read: i64 = sqlx::query_scalar(read).fetch_one(&mut database).await.unwrap();
    assert!(read < 350_000, "{read} checkpoints were read");
}

#[test]
fn a_checkpoint_names_each_log_that_its_records_tell_of() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let held = first.path("held");
    fs::write(&held, "after-told:other-logs").unwrap();
    first.start_with(&[("KEYWARD_FAULTPOINT", &format!("@{}", held.display()))]);
    let second = Instance::beside(&first, "second");
    first.wait_for_line("faultpoint after-told:other-logs");
    let (export, log) = (first.export(), log_of(&second));
    let checkpoint = fs::read_to_string(export.join("audit.checkpoint")).unwrap();
    assert!(checkpoint.contains(&format!("other {log} ")), "{checkpoint}");
    first.verify(&export).good();
    fs::remove_file(held).unwrap();
    assert_eq!(first.stop(), Some(0));
}
