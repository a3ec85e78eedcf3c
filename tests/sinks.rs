//! Copies of the log: JSON lines and syslog, through restarts, failures and rotation.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyward::audit::chain::ChainHash;
use keyward::audit::record::Event;
use keyward::error::Result;
use keyward::sink::{Copied, End, Sink, Sinks};
use keyward::store::{Batch, Sqlite, Store};
use serde_json::Value;

use crate::kit::{Instance, eventually};

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
fn what_a_power_cut_left_unwritten_is_copied_again() {
    let mut instance = configured("[[sink]]\nname = \"copy\"\njson_lines = \"audit.copy\"\n");
    let copy = instance.data().join("audit.copy");
    instance.start();
    until(&instance, "caught up", caught_up);
    assert_eq!(instance.stop(), Some(0));
    let whole = fs::read(&copy).unwrap();
    let third = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
    let zeros = vec![0; 3 * 1024 * 1024];
    // Blocks that were never written, after whole lines, within one, before others that were, and in all of the file.
    let left = [
        [&whole[..third], &zeros].concat(),
        [&whole[..third + 40], &zeros[..9000], &whole[third + 40..]].concat(),
        [&whole[..third], &zeros, &whole[third..third + 40]].concat(),
        zeros,
    ];
    for (n, left) in left.iter().enumerate() {
        fs::write(&copy, left).unwrap();
        instance.start();
        until(&instance, "caught up", caught_up);
        assert_eq!(instance.stop(), Some(0));
        let lines = copied(&copy);
        assert_eq!((&lines[0]["seq"], lines.len() > 3), (&0.into(), true), "{n}");
        assert_eq!(lines.last().unwrap()["record"]["event"]["type"], "log-closed", "{n}");
    }
}

#[test]
fn a_copy_of_what_was_given_up_takes_nothing_until_it_is_moved_away() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("log");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    std::thread::spawn(move || while receiver.recv(&mut [0; 65536]).is_ok() {});
    let mut instance = configured(&format!(
        "[[sink]]\nname = \"copy\"\njson_lines = \"audit.copy\"\n[[sink]]\nname = \"siem\"\nsyslog = \"{}\"\n",
        socket.display()
    ));
    let (store, copy) = (instance.data().join("keyward.db"), instance.data().join("audit.copy"));
    let both = |instance: &Instance, what: &str, is: &dyn Fn(&Value) -> bool| {
        eventually(what, || instance.json(&["audit", "sinks"]).as_array().unwrap().iter().all(is));
    };
    instance.start();
    both(&instance, "caught up", &caught_up);
    assert_eq!(instance.stop(), Some(0));
    let older = fs::read(&store).unwrap();
    instance.start();
    both(&instance, "caught up", &caught_up);
    assert_eq!(instance.stop(), Some(0));
    let held = fs::read(&copy).unwrap();
    let records = copied(&copy).len() as u64;

    // The log goes on from an earlier state, and past what the copies have.
    fs::write(&store, &older).unwrap();
    let confirm = instance.json(&["audit", "re-anchor"])["confirm"].as_str().unwrap().to_owned();
    instance.cli(&["audit", "re-anchor", "--confirm", &confirm]).good();
    instance.start();
    while instance.log().len() as u64 <= records {}
    assert_eq!(instance.stop(), Some(0));
    instance.start();
    both(&instance, "told of", &|sink: &Value| {
        sink["failing"].as_str().is_some_and(|why| why.contains("its last record") && why.contains("move it away"))
    });
    assert_eq!(instance.stop(), Some(0));
    assert_eq!(fs::read(&copy).unwrap(), held, "nothing is mixed, nothing is lost");

    fs::rename(&copy, instance.path("given-up")).unwrap();
    fs::remove_file(instance.data().join("sinks/siem.sent")).unwrap();
    instance.start();
    both(&instance, "caught up", &caught_up);
    assert_eq!(instance.stop(), Some(0));
    assert_eq!(copied(&copy)[0]["seq"], 0);
}

/// Breaks off once, and takes records then.
struct Breaks {
    taken: Arc<Mutex<Vec<u64>>>,
    broken: bool,
}

impl Sink for Breaks {
    fn open(&mut self, _: &str) -> Result<End> {
        Ok(End { next: self.taken.lock().unwrap().len() as u64, sha256: None })
    }

    fn copy(&mut self, record: &Copied) -> Result<()> {
        assert!(std::mem::replace(&mut self.broken, true), "it breaks off");
        self.taken.lock().unwrap().push(record.seq);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_breaks_off_is_begun_again() {
    let place = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&place.path().join("store.db"), true).await.unwrap());
    for _ in 0..3 {
        store.commit(Batch::event(Event::LogClosed {})).await.unwrap();
    }
    let taken = Arc::<Mutex<Vec<u64>>>::default();
    let sink = Breaks { taken: taken.clone(), broken: false };
    let sinks = Sinks::start(&store, vec![("copy".into(), "here".into(), Box::new(sink))]);
    eventually("it takes all records", || *taken.lock().unwrap() == [0, 1, 2]);
    sinks.finish().await;
    assert_eq!(sinks.standings()[0].next, 3);
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
    let other = format!("{{\"seq\":3,\"sha256\":\"{}\",\"record\":{{\"log\":\"other\"}}}}\n", ChainHash::ZERO);
    for content in [&*other, "something else\n", "something without an end", "\0\0something that begins with zeros"] {
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
