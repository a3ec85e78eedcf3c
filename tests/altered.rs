//! Rows that were edited in the database, past the service: refused on load, told apart and named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use keyward::grpc::client::{Connection, failed};

use crate::kit::postgres::Postgres;
use crate::kit::{Instance, Ran};

/// A stopped or running instance, and the server that its records are in, if they are in one.
struct Raw {
    server: Option<Postgres>,
    instance: Instance,
}

impl Raw {
    /// With an enrolled cluster `clusters/demo` and a node.
    fn new(server: Option<Postgres>) -> Self {
        let mut instance = server.as_ref().map_or_else(Instance::new, |server| Instance::in_database(server, "a"));
        instance.start();
        let made = instance.create_cluster("demo", &[]);
        let raw = Raw { server, instance };
        raw.edit("CREATE TABLE earlier AS SELECT * FROM object");
        raw.instance.authority();
        let response = raw.instance.process("demo", &made);
        raw.instance.import("demo", &response, &[]).good();
        raw.instance.node("demo", "node-1");
        raw.edit("CREATE TABLE before AS SELECT * FROM object");
        raw
    }

    fn edit(&self, statements: &str) {
        self.instance.sql(self.server.as_ref(), statements);
    }

    /// Replaces text in the body of one object.
    fn replace(&self, kind: &str, name: &str, from: &str, to: &str) {
        let body = match self.server {
            Some(_) => format!("convert_to(replace(convert_from(body, 'UTF8'), '{from}', '{to}'), 'UTF8')"),
            None => format!("CAST(replace(CAST(body AS TEXT), '{from}', '{to}') AS BLOB)"),
        };
        self.edit(&format!("UPDATE object SET body = {body} WHERE kind = '{kind}' AND name = '{name}'"));
    }

    /// Makes so many records that no start reads the first ones.
    fn grow(&self) {
        tokio::runtime::Runtime::new().unwrap().block_on(grow(&self.instance));
    }

    /// Undoes every edit.
    fn undo(&self) {
        // But for the tokens, whose rows change with each start.
        self.edit(
            "DELETE FROM object WHERE kind <> 'token'; \
             INSERT INTO object SELECT * FROM before WHERE kind <> 'token'",
        );
    }

    /// Runs a command after an edit. A service on SQLite reads each row once, so that it has to be started anew.
    fn after(&mut self, edit: impl FnOnce(&Raw), args: &[&str]) -> Ran {
        let alone = self.server.is_none();
        if alone {
            assert_eq!(self.instance.stop(), Some(0));
        }
        edit(self);
        if alone {
            self.instance.start();
        }
        let ran = self.instance.cli(args);
        if alone {
            assert_eq!(self.instance.stop(), Some(0));
        }
        self.undo();
        if alone {
            self.instance.start();
        }
        ran
    }
}

async fn grow(instance: &Instance) {
    let operator = Connection::operator(&instance.data().join("operator.sock")).await.unwrap();
    for n in 0..160 {
        let (parent, node_id) = ("clusters/demo".to_owned(), format!("n-{n}"));
        let invite = keyward::grpc::v1::InviteNodeRequest { parent, node_id, ..Default::default() };
        operator.nodes().invite_node(invite).await.unwrap();
    }
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(
                #[test]
                fn $name() {
                    super::$name(super::Raw::new(None));
                }
            )*
        }
        mod postgres {
            $(
                #[test]
                fn $name() {
                    super::$name(super::Raw::new(Some(super::Postgres::start())));
                }
            )*
        }
    };
}

on_both! {
    a_role_a_state_or_a_public_key_edited_in_its_row_is_named
    a_row_that_was_put_back_removed_or_put_in_is_told_apart
    a_row_that_was_put_back_with_the_records_of_its_changes_hidden_is_found_by_the_verifier
}

fn a_role_a_state_or_a_public_key_edited_in_its_row_is_named(mut raw: Raw) {
    let cluster = raw.instance.json(&["cluster", "get", "demo"]);
    let key = cluster["slc_key"].as_str().unwrap().to_owned();
    let row = raw.instance.json(&["key", "get", &key]);
    let get = ["key", "get", key.as_str()];
    raw.instance.cli(&get).good();

    let state = raw.after(|raw| raw.replace("key", &key, "\"state\":\"active\"", "\"state\":\"disabled\""), &get);
    let said = state.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("its state is \"disabled\", and \"active\" was recorded"), "{said}");
    let role = raw.after(|raw| raw.replace("key", &key, "\"role\":\"slc\"", "\"role\":\"root\""), &get);
    let said = role.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("its role is \"root\", and \"slc\" was recorded"), "{said}");
    // Another modulus of the same form.
    let modulus = modulus(&row);
    let mut other = modulus.clone();
    other.replace_range(20..21, if &modulus[20..21] == "0" { "1" } else { "0" });
    let public = raw.after(|raw| raw.replace("key", &key, &modulus, &other), &get);
    let said = public.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("its public key is not the one that the token made"), "{said}");
    let token = raw.after(|raw| raw.replace("key", &key, "\"token\":\"main\"", "\"token\":\"other\""), &get);
    let said = token.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("its content is another") && said.contains(&key), "{said}");
    let listed = raw.after(
        |raw| raw.replace("key", &key, "\"state\":\"active\"", "\"state\":\"missing\""),
        &["key", "list", "demo"],
    );
    listed.refused(74, "OBJECT_ALTERED");
    // With the rows as they were, all is well.
    raw.instance.cli(&get).good();
    raw.instance.log();
}

/// The modulus as rows have it.
fn modulus(key: &serde_json::Value) -> String {
    use base64::Engine;
    let little = key["public_key"]["modulus_le_base64"].as_str().unwrap();
    let mut bytes = base64::engine::general_purpose::STANDARD.decode(little).unwrap();
    bytes.reverse();
    hex::encode(bytes)
}

fn a_row_that_was_put_back_removed_or_put_in_is_told_apart(mut raw: Raw) {
    let cluster = ["cluster", "get", "demo"];
    let back = raw.after(
        |raw| {
            raw.edit(
                "DELETE FROM object WHERE name = 'clusters/demo'; \
                 INSERT INTO object SELECT * FROM earlier WHERE name = 'clusters/demo'",
            );
        },
        &cluster,
    );
    let said = back.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("clusters/demo was put back to version 1"), "{said}");
    let gone = raw.after(|raw| raw.edit("DELETE FROM object WHERE name = 'clusters/demo'"), &cluster);
    let said = gone.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("clusters/demo was removed from the store"), "{said}");
    let node = ["node", "get", "clusters/demo/nodes/node-2"];
    let put_in = raw.after(
        |raw| {
            raw.edit(
                "INSERT INTO object SELECT kind, 'clusters/demo/nodes/node-2', version, body FROM before \
                 WHERE name = 'clusters/demo/nodes/node-1'",
            );
        },
        &node,
    );
    let said = put_in.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("no record says how it came there"), "{said}");
    raw.instance.cli(&node).refused(65, "NOT_FOUND");
    let ahead = raw.after(|raw| raw.edit("UPDATE object SET version = 9 WHERE name = 'clusters/demo'"), &cluster);
    let said = ahead.refused(74, "OBJECT_ALTERED");
    assert!(said.contains("is said to be version 9"), "{said}");
    raw.instance.cli(&cluster).good();
    raw.instance.log();
}

fn a_row_that_was_put_back_with_the_records_of_its_changes_hidden_is_found_by_the_verifier(mut raw: Raw) {
    let text = |record: &str| match raw.server {
        Some(_) => format!("convert_from({record}, 'UTF8')"),
        None => format!("CAST({record} AS TEXT)"),
    };
    let bytes = |text: String| match raw.server {
        Some(_) => format!("convert_to({text}, 'UTF8')"),
        None => format!("CAST({text} AS BLOB)"),
    };
    let later = format!(
        "{} LIKE '{{\"event\":{{\"name\":\"clusters/demo\",\"object\":\"cluster\",%' AND {} NOT LIKE '%\"version\":1}}%'",
        text("record"),
        text("record")
    );
    let back = "DELETE FROM object WHERE name = 'clusters/demo'; \
                INSERT INTO object SELECT * FROM earlier WHERE name = 'clusters/demo'";
    let elsewhere = bytes(format!("replace({}, '\"event\":{{\"name\"', '\"event\": {{\"name\"')", text("record")));
    let get = ["cluster", "get", "demo"];
    raw.instance.cli(&get).good();
    raw.grow();
    raw.edit("CREATE TABLE kept AS SELECT * FROM entry");
    for (hidden, finding) in [
        (format!("DELETE FROM entry WHERE {later}"), "deleted"),
        (format!("UPDATE entry SET record = {elsewhere} WHERE {later}"), "edited"),
    ] {
        if raw.server.is_some() {
            // Whoever runs has known a later version. In a file, it does not look again at what it knows.
            raw.edit(&format!("{hidden}; {back}"));
            let said = raw.instance.cli(&get).refused(74, "OBJECT_ALTERED");
            assert!(said.contains("clusters/demo was put back to version 1"), "{said}");
        }
        assert_eq!(raw.instance.stop(), Some(0));
        raw.edit(&format!("{hidden}; {back}"));
        let ran = raw.instance.cli(&["audit", "verify", "--output", "json"]);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, &report["finding"]), (Some(1), &finding.into()), "{report}");
        raw.edit("DELETE FROM entry WHERE seq IN (SELECT seq FROM kept); INSERT INTO entry SELECT * FROM kept");
        raw.undo();
        raw.instance.start();
        raw.instance.cli(&get).good();
    }
}

/// Puts the row of `clusters/demo` in a file back, and takes the records of its later changes out of the index by which
/// they are found, and out of nothing else.
const HIDDEN: &str = r#"
import sqlite3, sys
index = "SELECT rootpage, sql FROM sqlite_schema WHERE name = 'change'"
later = '''CAST(record AS TEXT) LIKE '{"event":{"name":"clusters/demo","object":"cluster",%' AND CAST(record AS TEXT)
           NOT LIKE '%"version":1}%' '''
store = sqlite3.connect(sys.argv[1])
hidden = store.execute(f"SELECT seq, record FROM entry WHERE {later}").fetchall()
root, sql = store.execute(index).fetchone()
assert hidden
store.executescript(f"DELETE FROM entry WHERE {later}; DELETE FROM object WHERE name = 'clusters/demo'; "
                    "INSERT INTO object SELECT * FROM earlier WHERE name = 'clusters/demo'; "
                    "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'change'")
store.close()
store = sqlite3.connect(sys.argv[1])
store.executemany("INSERT INTO entry VALUES (?, ?)", hidden)
store.execute("PRAGMA writable_schema = ON")
store.execute("INSERT INTO sqlite_schema VALUES ('index', 'change', 'entry', ?, ?)", (root, sql))
store.commit()
"#;

#[test]
fn a_row_that_was_put_back_with_its_changes_taken_out_of_the_index_is_found_by_the_verifier() {
    let mut raw = Raw::new(None);
    assert_eq!(raw.instance.stop(), Some(0));
    let store = raw.instance.data().join("keyward.db");
    assert!(std::process::Command::new("python3").args(["-c", HIDDEN]).arg(&store).status().unwrap().success());
    let ran = raw.instance.cli(&["audit", "verify", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &report["finding"]), (Some(1), &"row-edited".into()), "{report}");
    assert!(report["broken"]["message"].as_str().unwrap().contains("clusters/demo"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_with_a_key_whose_row_was_edited_or_for_a_node_whose_row_was() {
    let raw = Raw::new(Some(Postgres::start()));
    let draft = raw.instance.draft("demo");
    let node = raw.instance.connect("node-1").await;
    let sign = async || node.licensing().sign_document(draft.request("clusters/demo")).await;
    sign().await.unwrap();
    let key = raw.instance.json(&["cluster", "get", "demo"])["slc_key"].as_str().unwrap().to_owned();
    let rows = [("key", key.as_str()), ("cluster", "clusters/demo"), ("principal", "clusters/demo/nodes/node-1")];
    for (kind, name) in rows {
        // The same object, in a form that means the same.
        raw.replace(kind, name, "{\"", "{ \"");
        let status = sign().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DataLoss, "{name}: {status:?}");
        assert!(failed(status).message().contains(name));
        raw.undo();
        sign().await.unwrap();
    }
    let log = raw.instance.log();
    let signed =
        crate::kit::events(&log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
    assert_eq!(signed, 4);
}

#[test]
fn a_quarantine_that_was_taken_out_of_its_row_keeps_the_service_from_starting() {
    let mut raw = Raw::new(None);
    assert_eq!(raw.instance.stop(), Some(0));
    raw.edit("UPDATE object SET body = CAST('{\"latched\":null,\"quarantined\":\"x\"}' AS BLOB) WHERE kind = 'token'");
    let said = raw.instance.serve_fails().refused(74, "OBJECT_ALTERED");
    assert!(said.contains("serial"), "{said}");
}

/// Edits the URL of `clusters/demo` in a file, and in the record that has the hash of its row.
const BOTH: &str = r#"
import hashlib, sqlite3, sys
store = sqlite3.connect(sys.argv[1])
was = bytes(store.execute("SELECT body FROM object WHERE kind = 'cluster' AND name = 'clusters/demo'").fetchone()[0])
now = was.replace(b"demo.example", b"evil.example")
old, new = (hashlib.sha256(body).hexdigest().encode() for body in (was, now))
[(seq, record)] = [row for row in store.execute("SELECT seq, record FROM entry") if old in bytes(row[1])]
assert was != now and seq < 256 < store.execute("SELECT size FROM log").fetchone()[0], seq
store.execute("UPDATE entry SET record = ? WHERE seq = ?", (bytes(record).replace(old, new), seq))
store.execute("UPDATE object SET body = ? WHERE kind = 'cluster' AND name = 'clusters/demo'", (now,))
store.commit()
"#;

/// The same on a server.
const BOTH_SQL: &str = "UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), old, new), 'UTF8') FROM \
     (SELECT encode(sha256(body), 'hex') AS old, encode(sha256(convert_to(replace(convert_from(body, 'UTF8'), \
      'demo.example', 'evil.example'), 'UTF8')), 'hex') AS new FROM object WHERE kind = 'cluster') AS hash \
     WHERE position(convert_to(old, 'UTF8') IN record) > 0; \
     UPDATE object SET body = convert_to(replace(convert_from(body, 'UTF8'), 'demo.example', 'evil.example'), 'UTF8') \
     WHERE kind = 'cluster'";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_edited_together_with_its_record_is_not_loaded_from_a_file() {
    let mut instance = Instance::with_cluster();
    grow(&instance).await;
    assert_eq!(instance.stop(), Some(0));
    let store = instance.data().join("keyward.db");
    assert!(std::process::Command::new("python3").args(["-c", BOTH]).arg(&store).status().unwrap().success());
    let said = instance.serve_fails().refused(74, "OBJECT_ALTERED");
    assert!(said.contains("is not the one that was committed"), "{said}");
}

#[test]
fn a_row_that_was_edited_together_with_a_record_counts_in_no_instance_of_a_database() {
    let server = Postgres::start();
    let mut first = Instance::in_database(&server, "first");
    let mut second = Instance::beside(&first, "second");
    first.start();
    second.start();
    first.cluster("demo");
    let get = ["cluster", "get", "demo"];
    let refused = |words: &str| {
        for instance in [&first, &second] {
            let said = instance.cli(&get).refused(74, "OBJECT_ALTERED");
            assert!(said.contains(words), "{said}");
        }
    };
    for instance in [&first, &second] {
        instance.cli(&get).good();
    }
    server.sql("CREATE TABLE kept AS SELECT * FROM entry; CREATE TABLE before AS SELECT * FROM object");
    let undo = "DELETE FROM object; INSERT INTO object SELECT * FROM before; \
                UPDATE entry SET record = kept.record FROM kept WHERE kept.log_id = entry.log_id AND kept.seq = entry.seq";
    server.sql(BOTH_SQL);
    refused("is not the one that was committed");
    server.sql(undo);
    for instance in [&first, &second] {
        instance.cli(&get).good();
    }
    // A record in a log of its own, that never was an instance's.
    server.sql(
        "INSERT INTO entry SELECT '11111111-2222-4333-8444-555555555555', 0, convert_to(format( \
         '{\"event\":{\"name\":\"clusters/demo\",\"object\":\"cluster\",\"sha256\":\"%s\",\"type\":\"changed\",\"version\":%s}, \
         \"log\":\"11111111-2222-4333-8444-555555555555\",\"prev\":\"%s\",\"seq\":0, \
         \"time\":\"2026-11-24T09:30:00.000001Z\",\"v\":1}', \
         encode(sha256(body), 'hex'), version + 1, repeat('0', 64)), 'UTF8') FROM object WHERE kind = 'cluster'; \
         UPDATE entry SET record = convert_to(replace(convert_from(record, 'UTF8'), ', ', ','), 'UTF8') \
         WHERE log_id LIKE '1111%'; \
         INSERT INTO log (log_id, instance, epoch, size, chain, time_us, open_from, frontier) \
         SELECT log_id, 'third', 1, 1, sha256(record), 1795512600000001, 0, sha256('\\x00'::bytea || record) \
         FROM entry WHERE log_id LIKE '1111%'; \
         UPDATE object SET version = version + 1 WHERE kind = 'cluster'",
    );
    refused("that log is not signed by an audit key of this custody");
}
