//! Copies of the log: JSON lines and syslog, through restarts, failures and rotation.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use keyward::audit::chain::ChainHash;
use serde_json::Value;

use crate::kit::Instance;

/// An instance with more in its configuration, not yet started.
fn configured(more: &str) -> Instance {
    let instance = Instance::new();
    let file = instance.data().join("keyward.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap() + more).unwrap();
    instance
}

/// The lines of a copy, checked against each other: no gap, none twice, every hash that of the record and in the next.
fn copied(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, next) in lines.iter().zip(lines.iter().skip(1)) {
        assert_eq!(line["seq"].as_u64().unwrap() + 1, next["seq"].as_u64().unwrap());
        assert_eq!(line["sha256"], next["record"]["prev"]);
    }
    for (line, text) in lines.iter().zip(text.lines()) {
        let record = text.split_once("\"record\":").unwrap().1.strip_suffix('}').unwrap();
        assert_eq!(line["sha256"], ChainHash::of(record.as_bytes()).to_string());
    }
    lines
}

/// Waits until the service says this of a sink.
#[track_caller]
fn until(instance: &Instance, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let sinks = instance.json(&["audit", "sinks"]);
        if is(&sinks[0]) {
            return sinks[0].clone();
        }
        assert!(Instant::now() < end, "never {what}: {sinks}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn caught_up(sink: &Value) -> bool {
    sink["behind"] == 0 && sink["failing"].is_null() && sink["next_seq"].as_u64() > Some(0)
}

#[test]
fn a_json_lines_copy_has_every_record_once_through_restarts_and_a_torn_line() {
    let mut instance = configured("[[sink]]\nname = \"copy\"\njson_lines = \"copies/audit.jsonl\"\n");
    let copy = instance.data().join("copies/audit.jsonl");
    instance.start();
    until(&instance, "caught up", caught_up);
    assert_eq!(instance.stop(), Some(0));
    let first = copied(&copy);
    assert_eq!(first[0]["seq"], 0);
    assert_eq!(first.last().unwrap()["record"]["event"]["type"], "log-closed", "it has the end of the run too");

    // As a power cut leaves it: half a line.
    let text = fs::read_to_string(&copy).unwrap();
    fs::write(&copy, &text[..text.len() - 40]).unwrap();
    instance.start();
    until(&instance, "caught up", caught_up);
    instance.kill();
    instance.start();
    until(&instance, "caught up", caught_up);
    assert_eq!(instance.stop(), Some(0));
    let lines = copied(&copy);
    assert_eq!(lines[..first.len()], first);
    assert_eq!(lines[0]["seq"], 0);
    assert_eq!(lines.last().unwrap()["record"]["event"]["type"], "log-closed");
}

#[test]
fn a_copy_that_is_full_is_turned_over_without_a_gap() {
    // The smallest file there is holds about 2000 records: refusals do not make that many, reads of the log do not count.
    let more = "[[sink]]\nname = \"copy\"\njson_lines = \"audit.copy\"\nrotate_mib = 1\nkeep = 2\n";
    let mut instance = configured(more);
    let copy = instance.data().join("audit.copy");
    instance.start();
    let sink = until(&instance, "caught up", caught_up);
    assert_eq!(instance.stop(), Some(0));
    // Made as large as one that was written for days: the records before those that are in it.
    let lines = fs::read_to_string(&copy).unwrap();
    let filler = format!(
        "{{\"seq\":0,\"sha256\":\"\",\"record\":{{\"log\":\"\",\"filler\":\"{}\"}}}}\n",
        "x".repeat(1024 * 1024 - lines.len() - 100)
    );
    fs::write(&copy, filler + &lines).unwrap();
    instance.start();
    until(&instance, "caught up", |now| caught_up(now) && now["next_seq"].as_u64() > sink["next_seq"].as_u64());
    assert_eq!(instance.stop(), Some(0));
    let older = fs::read_to_string(instance.data().join("audit.copy.1")).unwrap();
    let before: Value = serde_json::from_str(older.lines().last().unwrap()).unwrap();
    let newer = copied(&copy);
    assert_eq!(before["seq"].as_u64().unwrap() + 1, newer[0]["seq"].as_u64().unwrap());
    assert_eq!(before["sha256"], newer[0]["record"]["prev"]);
}

#[test]
fn a_copy_that_cannot_be_written_is_reported_and_holds_nothing_up() {
    let mut instance = configured("[[sink]]\nname = \"copy\"\njson_lines = \"copies/audit.jsonl\"\n");
    // Where its directory should be stands a file.
    fs::write(instance.data().join("copies"), "").unwrap();
    instance.start();
    let failing = until(&instance, "failing", |sink| !sink["failing"].is_null());
    assert!(failing["failing"].as_str().unwrap().contains("cannot be written"), "{failing}");
    instance.cluster("demo");
    assert!(fs::read_to_string(instance.path("serve.log")).unwrap().contains("a copy of the log takes nothing"));
    fs::remove_file(instance.data().join("copies")).unwrap();
    until(&instance, "caught up", caught_up);
    // Taken away while it is written: a new file goes on where the old one ended.
    let copy = instance.data().join("copies/audit.jsonl");
    let taken = instance.path("taken");
    fs::rename(&copy, &taken).unwrap();
    instance.node("demo", "node-1");
    until(&instance, "caught up", |sink| caught_up(sink) && copy.exists());
    assert_eq!(instance.stop(), Some(0));
    let (before, after) = (copied(&taken), copied(&copy));
    assert_eq!(before[0]["seq"], 0);
    assert_eq!(before.last().unwrap()["seq"].as_u64().unwrap() + 1, after[0]["seq"].as_u64().unwrap());
    assert!(after.len() > 3);
}

#[test]
fn a_copy_of_another_log_and_a_file_that_is_none_are_left_alone() {
    for content in ["{\"seq\":3,\"sha256\":\"\",\"record\":{\"log\":\"other\"}}\n", "something else\n"] {
        let mut instance = configured("[[sink]]\nname = \"copy\"\njson_lines = \"audit.copy\"\n");
        let copy = instance.data().join("audit.copy");
        fs::write(&copy, content).unwrap();
        instance.start();
        let failing = until(&instance, "failing", |sink| !sink["failing"].is_null());
        assert!(failing["failing"].as_str().unwrap().contains("cop"), "{failing}");
        assert_eq!(instance.stop(), Some(0));
        assert_eq!(fs::read_to_string(&copy).unwrap(), content);
    }
}

#[test]
fn syslog_gets_every_record_as_a_message_and_goes_on_where_it_ended() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("log");
    let mut instance = configured(&format!("[[sink]]\nname = \"siem\"\nsyslog = \"{}\"\n", socket.display()));
    // Nobody listens: reported, and the service serves.
    instance.start();
    until(&instance, "failing", |sink| !sink["failing"].is_null());

    let receiver = UnixDatagram::bind(&socket).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let receive = || {
        let mut bytes = [0; 65536];
        let length = receiver.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let field = |message: &str, name: &str| {
        let begin = message.split_once(&format!("{name}=\"")).unwrap().1;
        begin.split_once('"').unwrap().0.to_owned()
    };
    let mut before: Option<(u64, String)> = None;
    let mut check = |message: &str| {
        assert!(message.starts_with("<86>1 20"), "{message}");
        let (seq, hash) = (field(message, "seq").parse().unwrap(), field(message, "sha256"));
        let record = message.split_once('\u{feff}').unwrap().1;
        assert_eq!(ChainHash::of(record.as_bytes()).to_string(), hash);
        let due = before.as_ref().map_or(0, |(seq, _)| seq + 1);
        assert_eq!(seq, due, "in order, none left out");
        before = Some((seq, hash));
        record.contains("\"type\":\"log-closed\"")
    };
    // The end of init, and after it all of this run so far.
    while !check(&receive()) {}
    let open: Value = instance.json(&["audit", "list", "--limit", "1000"]);
    let last = open["entries"].as_array().unwrap().last().unwrap()["record"]["seq"].as_u64().unwrap();
    let mut seen = 0;
    while seen < last {
        let message = receive();
        seen = field(&message, "seq").parse().unwrap();
        check(&message);
    }
    assert_eq!(instance.stop(), Some(0));
    assert!(check(&receive()), "the end of this run");
    instance.start();
    assert!(!check(&receive()), "the next run, and nothing twice");
    drop(instance);
}
