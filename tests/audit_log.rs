//! What the log says, how it is read, and how it is exported.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use keyward::audit::chain::ChainHash;
use keyward::audit::record::{Event, RECORD_BYTES_MAX, Record};
use keyward::caller::CallerNote;
use keyward::error::Reason;
use keyward::grpc::client::{AuditClient, Connection, NodeIdentity, failed};
use keyward::grpc::v1;
use keyward::store::{Batch, Sqlite, Store};
use serde_json::Value;

use crate::kit::{Instance, KEYWARD, ends, events, keyward, python};

async fn operator(instance: &Instance) -> Connection {
    Connection::operator(&instance.data().join("operator.sock")).await.unwrap()
}

/// The places of what a list shows.
fn places(listed: &Value) -> Vec<u64> {
    listed["entries"].as_array().unwrap().iter().map(|entry| entry["record"]["seq"].as_u64().unwrap()).collect()
}

#[test]
fn every_start_records_the_rules_and_the_configuration_that_are_in_force() {
    let mut instance = Instance::new();
    instance.start();
    let log = instance.log();
    let in_force = events(&log, "in-force");
    assert_eq!(in_force.len(), 2, "of init, and of this start");
    let said = in_force[1];
    let file = fs::read(instance.data().join("keyward.toml")).unwrap();
    assert_eq!(said["configuration_sha256"], ChainHash::of(&file).to_string());
    let words = |name: &str| -> Vec<&str> {
        said[name].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
    };
    let rules: String = words("policy").iter().map(|rule| format!("{rule}\n")).collect();
    assert!(rules.contains("nodes-sign-use-licenses: node may sign-document for its own cluster"), "{rules}");
    assert_eq!(said["policy_sha256"], ChainHash::of(rules.as_bytes()).to_string());
    assert!(words("settings").iter().any(|word| word.starts_with("token main: profile softhsm")), "{said}");
    let text = serde_json::to_string(&log).unwrap();
    for pin in ["main.user", "main.so"] {
        let pin = fs::read_to_string(instance.data().join("pins").join(pin)).unwrap();
        assert!(!text.contains(&pin), "a PIN stands in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_and_imports_are_recorded_the_refused_and_the_malformed_too() {
    let instance = Instance::with_cluster();
    let (token, out) = (instance.path("node-1.join.toml"), instance.path("again"));
    keyward(&["node", "join", token.to_str().unwrap(), "--out", out.to_str().unwrap()]).refused(77, "UNAUTHENTICATED");
    let request = v1::ImportEnrollmentResponseRequest {
        cluster: "clusters/demo".into(),
        document: b"no response".to_vec(),
        pins: vec!["no pin".into()],
        ..Default::default()
    };
    let operator = operator(&instance).await;
    let refusal = failed(operator.enrollment().import_enrollment_response(request).await.unwrap_err());
    assert_eq!(refusal.reason(), Reason::InvalidArgument);

    let log = instance.log();
    let joined = events(&log, "joined")[0];
    assert_eq!(joined["node"], "clusters/demo/nodes/node-1");
    assert_eq!(joined["caller"]["name"], "join-token for clusters/demo/nodes/node-1");
    assert_eq!(joined["caller"]["address"], "127.0.0.1");
    assert_eq!(joined["certificate_sha256"].as_str().unwrap().len(), 64);
    let refused = events(&log, "refusal").into_iter().find(|event| event["operation"] == "join-cluster").unwrap();
    assert_eq!((&refused["reason"], &refused["caller"]["address"]), (&"UNAUTHENTICATED".into(), &"127.0.0.1".into()));
    let enrollments = events(&log, "enrollment");
    let imported = enrollments.iter().find(|event| event["step"] == "response-refused").unwrap();
    assert_eq!(imported["document_sha256"], ChainHash::of(b"no response").to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_counted_and_cannot_fill_the_log() {
    const FLOOD: u64 = 400;
    let mut instance = Instance::with_cluster();
    let node = instance.connect("node-1").await;
    let asked = instance.draft("demo").request("clusters/other");
    for _ in 0..FLOOD {
        let refusal = failed(node.licensing().sign_document(asked.clone()).await.unwrap_err());
        assert_eq!(refusal.reason(), Reason::PermissionDenied, "counted or recorded, the answer is the same");
    }
    drop(node);
    assert_eq!(instance.stop(), Some(0), "what is counted is recorded at the end, if not before");
    instance.start();
    let log = instance.log();
    let is_node = |event: &&Value| event["caller"]["name"] == "clusters/demo/nodes/node-1";
    let single = events(&log, "refusal").into_iter().filter(is_node).count() as u64;
    let counted: u64 = events(&log, "refusals-counted")
        .into_iter()
        .filter(is_node)
        .map(|event| event["counts"]["sign-document PERMISSION_DENIED"].as_u64().unwrap())
        .sum();
    assert_eq!(single + counted, FLOOD, "none is lost");
    // Two windows at most, should a minute have ended in between.
    assert!((30..=60).contains(&single), "{single} were recorded each for itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_are_refused_are_counted_in_a_flood_and_leave_short_records_only() {
    const FLOOD: usize = 100;
    let mut instance = Instance::with_cluster();
    let (node, operator) = (instance.connect("node-1").await, operator(&instance).await);
    let import = |name: String| v1::ImportEnrollmentResponseRequest {
        cluster: name,
        document: b"no response".to_vec(),
        pins: vec!["no pin".into()],
        ..Default::default()
    };
    // One name that would make a record longer than any verifier reads.
    let names = [3 * 1024 * 1024].into_iter().chain([10_000; FLOOD - 1]).map(|length| "x".repeat(length));
    for name in names {
        let refusal = failed(node.enrollment().import_enrollment_response(import(name)).await.unwrap_err());
        assert_eq!(refusal.reason(), Reason::PermissionDenied);
    }
    for _ in 0..FLOOD {
        let request = import("clusters/demo".into());
        let refusal = failed(operator.enrollment().import_enrollment_response(request).await.unwrap_err());
        assert_eq!(refusal.reason(), Reason::InvalidArgument);
    }
    drop((node, operator));
    assert_eq!(instance.stop(), Some(0), "what is counted is recorded at the end, if not before");
    instance.start();
    let log = instance.log();
    assert!(log.iter().all(|record| record.to_string().len() < 16 * 1024));
    let of = |kind: &str, caller: &str| -> Vec<&Value> {
        events(&log, kind).into_iter().filter(|event| event["caller"]["name"] == caller).collect()
    };
    for (caller, reason) in
        [("clusters/demo/nodes/node-1", "PERMISSION_DENIED"), ("local-operator", "INVALID_ARGUMENT")]
    {
        let single = of("refusal", caller).len();
        let name = format!("import-response {reason}");
        let counted: u64 =
            of("refusals-counted", caller).iter().filter_map(|event| event["counts"][&name].as_u64()).sum();
        assert_eq!(single as u64 + counted, FLOOD as u64, "{caller}: none is lost");
        // Two windows at most, should a minute have ended in between.
        assert!((30..=60).contains(&single), "{caller}: {single} were recorded each for itself");
    }
    assert_eq!(of("enrollment", "clusters/demo/nodes/node-1").len(), 0, "who may not import has no say in the log");
    let responses = |event: &&&Value| event["step"] == "response-refused";
    assert_eq!(
        of("enrollment", "local-operator").iter().filter(responses).count(),
        of("refusal", "local-operator").len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_the_longest_records_is_exported_and_listed_whole() {
    let mut instance = Instance::new();
    let store = Sqlite::open(&instance.data().join("keyward.db"), false).await.unwrap();
    let event = || Event::Refusal {
        caller: CallerNote::service(),
        operation: "test".into(),
        target: "test".into(),
        reason: "INTERNAL".into(),
        message: "x".repeat(RECORD_BYTES_MAX - 1024),
    };
    // More than fits into one message, though it has few records.
    for _ in 0..10 {
        store.commit(Batch { writes: Vec::new(), events: (0..10).map(|_| event()).collect() }).await.unwrap();
    }
    store.close().await;
    instance.start();
    assert_eq!(events(&instance.log(), "refusal").len(), 100);
    let operator = operator(&instance).await;
    let mut request =
        v1::ListEntriesRequest { parent: "logs/-".into(), filter: "kind = \"refusal\"".into(), ..Default::default() };
    let mut listed = 0;
    loop {
        let page = operator.audit().list_entries(request.clone()).await.unwrap().into_inner();
        listed += page.entries.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, 100);
    // A client that takes what clients take unless told otherwise: 4 MiB a message.
    let mut plain = AuditClient::new(operator.channel());
    let mut stream = plain.export_log(v1::ExportLogRequest::default()).await.unwrap().into_inner();
    let mut longest = 0;
    while let Some(message) = stream.message().await.unwrap() {
        longest += message.records.iter().filter(|record| record.len() > RECORD_BYTES_MAX / 2).count();
    }
    assert_eq!(longest, 100);
}

#[test]
fn nothing_that_is_printed_of_a_record_or_a_request_moves_on_a_terminal_or_makes_a_line() {
    let mut instance = Instance::new();
    instance.start();
    let name = "\u{1b}[31mEVIL\nerror: forged\u{9b}2J\u{202e}";
    let ran = instance.cli(&["cluster", "get", name]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    let recorded = instance.json(&["audit", "list", "--kind", "refusal"]);
    let target = recorded["entries"][0]["record"]["event"]["target"].as_str().unwrap();
    assert!(target.ends_with(name), "it is kept as it was: {target:?}");
    let tail = instance.cli(&["audit", "tail", "-n", "1"]).good();
    assert!(tail.contains("EVIL"), "{tail}");
    let json = instance.cli(&["audit", "tail", "-n", "1", "--output", "json"]).good();
    for said in [&ran.stderr, &tail, &json] {
        assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said:?}");
        assert!(!said.contains("\nerror: forged"), "{said:?}");
    }

    // A log that somebody made up, with a kind of event that reads like a verdict.
    let event = br#"{"type":"x\u001b[8m\n\ngood     every record follows\nverdict: good\n"}"#;
    let (log, time) = ("\u{1b}[2Ja-log\nverdict: good", "2026-11-24T09:30:00.000000Z");
    let record = Record::bytes_around(event, log, 0, ChainHash::ZERO, time).unwrap();
    let file = instance.path("forged.jsonl");
    fs::write(&file, [&record[..], b"\n"].concat()).unwrap();
    let (ours, python) = (keyward(&["audit", "verify", file.to_str().unwrap()]), python("verify_audit.py", &[&file]));
    for ran in [ours, python] {
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
        let forged = |line: &&str| line.starts_with("good") || line.starts_with("verdict: good");
        assert_eq!(ran.stdout.lines().find(forged), None, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_in_their_handshake_are_recorded_and_in_a_flood_counted() {
    const NO_TLS: u64 = 100;
    let (mut instance, other) = (Instance::with_cluster(), Instance::with_cluster());
    let server = instance.server().trim_start_matches("https://").to_owned();
    // Somebody who looks whether anybody listens.
    for _ in 0..20 {
        drop(TcpStream::connect(&server).unwrap());
    }
    // A certificate of another authority, none at all, and no TLS.
    let [own, foreign] = [&instance, &other].map(|instance| instance.identity("node-1"));
    let foreign = NodeIdentity { server: own.server, ca_pem: own.ca_pem, ..foreign };
    let asked = instance.draft("demo").request("clusters/demo");
    let refused = async {
        let node = Connection::node(&foreign).await?;
        node.licensing().sign_document(asked).await.map_err(failed)
    };
    assert!(refused.await.is_err());
    let script = "import socket,ssl,sys; h,p=sys.argv[1].split(':'); c=ssl._create_unverified_context()\n\
                  try: c.wrap_socket(socket.create_connection((h,int(p)))).recv(1); print('served')\n\
                  except ssl.SSLError: print('refused')";
    let ran = ends(Command::new("python3").args(["-c", script, &server])).good();
    assert_eq!(ran.trim(), "refused");
    for _ in 0..NO_TLS {
        let mut stream = TcpStream::connect(&server).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(instance.stop(), Some(0), "what is counted is recorded at the end, if not before");
    instance.start();
    let log = instance.log();
    let single: Vec<&Value> =
        events(&log, "refusal").into_iter().filter(|event| event["operation"] == "connect").collect();
    for event in &single {
        assert_eq!((&event["target"], &event["reason"]), (&"nodes".into(), &"UNAUTHENTICATED".into()), "{event}");
        assert_eq!(event["caller"], serde_json::json!({ "name": "stranger", "address": "127.0.0.1" }));
    }
    let counts = events(&log, "refusals-counted").into_iter();
    let counted: u64 = counts.filter_map(|event| event["counts"]["connect UNAUTHENTICATED"].as_u64()).sum();
    assert!((30..=60).contains(&single.len()), "{} were recorded each for itself", single.len());
    // A client may try more than once before it gives up.
    assert!(single.len() as u64 + counted >= NO_TLS + 2, "none is lost: {} {counted}", single.len());
    assert!(single.len() as u64 + counted < NO_TLS + 12, "who sent nothing is not told of: {} {counted}", single.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_listed_by_what_they_are_about_page_by_page() {
    let instance = Instance::with_cluster();
    let node = instance.connect("node-1").await;
    let before = keyward::audit::record::time_text(keyward::clock::now_us());
    node.licensing().sign_document(instance.draft("demo").request("clusters/demo")).await.unwrap();
    node.licensing().sign_document(instance.draft("demo").request("clusters/other")).await.unwrap_err();
    let log = instance.log();
    let key = "clusters/demo/keys/slc-1";
    let of = |wanted: &dyn Fn(&Value) -> bool| -> Vec<u64> {
        log.iter().filter(|record| wanted(&record["event"])).map(|record| record["seq"].as_u64().unwrap()).collect()
    };
    let sign = of(&|event| event["act"]["do"] == "sign-document")[0];
    let outcome = of(&|event| event["intent"] == sign)[0];
    let list = |args: &[&str]| places(&instance.json(&[&["audit", "list"], args].concat()));

    assert_eq!(list(&["--kind", "refusal"]), of(&|event| event["type"] == "refusal"));
    let guid = "7A925B0C-B918-450B-8B7F-33719847A8B2";
    assert_eq!(list(&["--guid", guid]), [sign, outcome], "an intent and what became of it");
    assert_eq!(list(&["--guid", guid, "--outcome", "done"]), [outcome]);
    assert_eq!(list(&["--guid", guid, "--outcome", "unknown"]), [0; 0]);
    let by_key = list(&["--key", key]);
    assert!(by_key.ends_with(&[sign, outcome]) && by_key.len() == 5, "made, recorded, used: {by_key:?}");
    let by_node = list(&["--caller", "clusters/demo/nodes/node-1", "--from", &before]);
    assert_eq!(by_node.len(), 3, "intent, outcome, refusal: {by_node:?}");
    assert_eq!(list(&["--until", &before, "--guid", guid]), [0; 0]);
    assert_eq!(list(&["--newest-first", "--limit", "2", "--guid", guid]), [outcome, sign]);

    // Whole pages, and every record in its place.
    let mut walked = Vec::new();
    let mut token = String::new();
    loop {
        let page = instance.json(&["audit", "list", "--limit", "7", "--page-token", &token]);
        walked.extend(page["entries"].as_array().unwrap().iter().cloned());
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(walked[..log.len()].iter().map(|entry| entry["record"].clone()).collect::<Vec<_>>(), log);
    for (entry, next) in walked.iter().zip(&walked[1..]) {
        assert_eq!(entry["sha256"], next["record"]["prev"]);
    }
    instance.cli(&["audit", "list", "--from", "yesterday"]).refused(65, "INVALID_ARGUMENT");
    instance.cli(&["audit", "list", "--kind", "a\"b"]).refused(65, "INVALID_ARGUMENT");
    let listed = instance.cli(&["audit", "list", "--limit", "3"]);
    assert!(listed.stderr.contains("--page-token 3"), "{listed:?}");
    assert_eq!(listed.good().lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_for_operators_and_asking_wrong_says_what_is_right() {
    let instance = Instance::with_cluster();
    let node = instance.connect("node-1").await;
    let parent = || v1::ListEntriesRequest { parent: "logs/-".into(), ..Default::default() };
    let denied = failed(node.audit().list_entries(parent()).await.unwrap_err());
    assert_eq!(denied.reason(), Reason::PermissionDenied);
    assert_eq!(
        failed(node.audit().list_sinks(v1::ListSinksRequest {}).await.unwrap_err()).reason(),
        Reason::PermissionDenied
    );
    let operator = operator(&instance).await;
    let page = operator.audit().list_entries(parent()).await.unwrap().into_inner();
    let log = page.entries[0].name.strip_suffix("/entries/0").unwrap().to_owned();
    let named = v1::ListEntriesRequest { parent: log, page_size: 1, ..Default::default() };
    assert_eq!(operator.audit().list_entries(named).await.unwrap().into_inner().entries.len(), 1);
    for (request, reason) in [
        (v1::ListEntriesRequest { parent: "logs/other".into(), ..Default::default() }, Reason::NotFound),
        (v1::ListEntriesRequest { filter: "kind".into(), ..parent() }, Reason::InvalidArgument),
        (v1::ListEntriesRequest { order_by: "time".into(), ..parent() }, Reason::InvalidArgument),
        (v1::ListEntriesRequest { page_token: "x".into(), ..parent() }, Reason::InvalidArgument),
        (v1::ListEntriesRequest { filter: "x".repeat(4000), ..parent() }, Reason::LimitExceeded),
    ] {
        let refusal = failed(operator.audit().list_entries(request.clone()).await.unwrap_err());
        assert_eq!(refusal.reason(), reason, "{request:?}");
        assert!(refusal.next_step().is_some() || reason == Reason::LimitExceeded, "{refusal:?}");
    }
}

#[test]
fn tail_shows_the_last_records_and_follows_those_that_come() {
    let mut instance = Instance::new();
    instance.start();
    let last = instance.cli(&["audit", "tail", "-n", "2"]).good();
    assert_eq!(last.lines().count(), 2, "{last}");
    let data = instance.data();
    let mut tail = Command::new(KEYWARD)
        .args(["audit", "tail", "-n", "0", "--follow", "--kind", "refusal", "--output", "json", "--data"])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // Whether it has begun to follow cannot be seen; so refusals come until one is told.
    let ask = std::thread::scope(|scope| {
        let told = scope.spawn(move || lines.next().unwrap().unwrap());
        while !told.is_finished() {
            instance.cli(&["cluster", "get", "none"]).refused(65, "NOT_FOUND");
        }
        told.join().unwrap()
    });
    let told: Value = serde_json::from_str(&ask).unwrap();
    assert_eq!(told["record"]["event"]["reason"], "NOT_FOUND");
    assert!(Command::new("kill").args(["-TERM", &tail.id().to_string()]).status().unwrap().success());
    assert_eq!(tail.wait().unwrap().code(), Some(0), "a signal is how it ends");
}

#[test]
fn an_export_that_is_killed_at_any_point_goes_on_when_it_is_run_again() {
    let instance = Instance::with_cluster();
    for (n, point) in ["begun", "received", "audit.trust", "audit.checkpoint"].iter().enumerate() {
        let out = instance.path(&format!("killed-{n}"));
        let args = ["audit", "export", "--out", out.to_str().unwrap()];
        let mut export = Command::new(KEYWARD)
            .args(args)
            .arg("--data")
            .arg(instance.data())
            .env("KEYWARD_FAULTPOINT", format!("{point}:export"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reached = BufReader::new(export.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        assert_eq!(reached, format!("faultpoint {point}:export"));
        export.kill().unwrap();
        export.wait().unwrap();
        assert!(!out.join("audit.jsonl").exists(), "{point}: what has this name is whole");
        instance.cli(&args).good();
        instance.verify(&out).good();
        let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["audit.checkpoint", "audit.jsonl", "audit.trust"], "{point}");
        let said = instance.cli(&args);
        assert!(said.code == Some(65) && said.stderr.contains("exists"), "{said:?}");
    }
    // What is not of an export that was broken off is never written over.
    let kept = instance.path("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("audit.trust"), "mine").unwrap();
    instance.cli(&["audit", "export", "--out", kept.to_str().unwrap()]).refused(65, "INVALID_ARGUMENT");
    assert_eq!(fs::read(kept.join("audit.trust")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
}

#[test]
fn an_export_that_was_broken_off_goes_on_after_its_last_whole_record() {
    let instance = Instance::with_cluster();
    let whole = fs::read(instance.export().join("audit.jsonl")).unwrap();
    let out = instance.path("resumed");
    let partial = out.join("audit.jsonl.partial");
    let export = || instance.cli(&["audit", "export", "--out", out.to_str().unwrap(), "--output", "json"]);
    fs::create_dir(&out).unwrap();

    // Another log's, a changed one, and one that is ahead of this log: refused, and kept.
    let other = Instance::with_cluster();
    let foreign = fs::read(other.export().join("audit.jsonl")).unwrap();
    let mut changed = whole.clone();
    changed[300] ^= 1;
    for (content, reason) in [(&foreign, "INVALID_ARGUMENT"), (&changed, "RECORD_BROKEN")] {
        fs::write(&partial, content).unwrap();
        let said = export();
        assert!(said.stderr.contains(&format!("[{reason}]")) && said.stderr.contains("next: "), "{said:?}");
        assert_eq!(&fs::read(&partial).unwrap(), content);
        assert!(!out.join("audit.checkpoint").exists() && !out.join("audit.jsonl").exists());
    }

    let third = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
    fs::write(&partial, &whole[..third + 40]).unwrap();
    let said = export();
    assert!(said.stderr.contains("going on after 3 records"), "{said:?}");
    let report: Value = serde_json::from_str(&said.good()).unwrap();
    assert!(!partial.exists());
    let resumed = fs::read(out.join("audit.jsonl")).unwrap();
    assert!(resumed.starts_with(&whole), "the same bytes, and what came since");
    let records = usize::try_from(report["records"].as_u64().unwrap()).unwrap();
    assert_eq!(records, resumed.split(|byte| *byte == b'\n').count() - 1);
    instance.verify(&out).good();
}
