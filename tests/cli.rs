//! The command line and the files it makes: what goes wrong, in words, and with nothing half-made.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use keyward::audit::merkle::TreeHash;
use keyward::audit::record::{Event, Moment};
use keyward::store::{Sqlite, Store as _};
use serde_json::Value;

use crate::kit::{Instance, KEYWARD, Ran, ends, events, keyward};

fn setting(instance: &Instance, name: &str) -> String {
    let text = fs::read_to_string(instance.data().join("keyward.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn init_makes_a_private_directory_whole_or_not_at_all() {
    let instance = Instance::new();
    let mode = |path: &str| fs::metadata(instance.data().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for secret in ["pins/main.user", "pins/main.so", "keyward.toml"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    let pin = fs::read_to_string(instance.data().join("pins/main.user")).unwrap();
    assert!(pin.len() >= 32, "a PIN that nobody guesses");
    let config = fs::read_to_string(instance.data().join("keyward.toml")).unwrap();
    assert!(!config.contains(&pin), "the configuration names the PIN's file, not the PIN");

    let again = keyward(&["init", instance.data().to_str().unwrap()]).refused(78, "DATA_DIRECTORY");
    assert!(again.contains("is not empty"), "{again}");

    let nowhere = instance.path("data2");
    keyward(&["init", nowhere.to_str().unwrap(), "--profile", "no-such-device"]).refused(78, "CONFIG_INVALID");
    assert!(!nowhere.exists());
    let left: Vec<_> =
        fs::read_dir(instance.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["data"], "nothing half-made is left");
}

#[test]
fn init_fills_an_empty_directory_that_is_there_and_takes_no_name_too_long_for_a_socket() {
    let place = tempfile::tempdir().unwrap();
    let init = |at: &std::path::Path, name: &str| {
        let free = ["--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0"];
        ends(Command::new(KEYWARD).arg("init").arg(name).args(free).current_dir(at))
    };
    init(place.path(), ".").good();
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o700);
    ends(Command::new(KEYWARD).args(["config", "check", "--data", "."]).current_dir(place.path())).good();
    assert!(!fs::read_dir(place.path()).unwrap().any(|e| e.unwrap().file_name().to_str().unwrap().starts_with('.')));

    let deep = tempfile::tempdir().unwrap();
    let said = init(deep.path(), &"d".repeat(100)).refused(78, "CONFIG_INVALID");
    assert!(said.contains("ddd/operator.sock is longer than 107 bytes") && said.contains("in a shorter one"), "{said}");
    assert_eq!(fs::read_dir(deep.path()).unwrap().count(), 0, "nothing was made");

    // What a power cut would leave.
    fs::create_dir(deep.path().join(".partial-1")).unwrap();
    let said = init(deep.path(), ".").refused(78, "DATA_DIRECTORY");
    assert!(said.contains("left PINs in") && said.contains(".partial-1"), "{said}");
}

#[test]
fn init_that_is_ended_by_a_signal_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (data, pin) = (place.path().join("data"), place.path().join("pin.pem"));
    let mut child = Command::new(KEYWARD)
        .args(["authority", "init"])
        .arg(&data)
        .arg("--pin")
        .arg(&pin)
        .env("KEYWARD_FAULTPOINT", "after-intent:generate-key")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "faultpoint after-intent:generate-key\n");
    assert!(data.exists() && pin.exists());
    assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(78));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn the_operators_socket_replaces_nothing_that_is_in_use_or_no_socket() {
    let mut instance = Instance::new();
    instance.start();
    let mut other = Instance::new();
    let taken = instance.data().join("operator.sock");
    other.reconfigure("socket = \"operator.sock\"", &format!("socket = \"{}\"", taken.display()));
    let said = other.serve_fails().refused(78, "ADDRESS_IN_USE");
    assert!(said.contains("another process listens on"), "{said}");
    instance.cli(&["cluster", "list"]).good();

    let store = other.data().join("keyward.db");
    other.reconfigure(&taken.display().to_string(), &store.display().to_string());
    let content = fs::read(&store).unwrap();
    let said = other.serve_fails().refused(78, "CONFIG_INVALID");
    assert!(said.contains("is no socket"), "{said}");
    assert_eq!(fs::read(&store).unwrap(), content);

    // One that was left behind is replaced; what others put in its place is not removed at the end.
    let socket = other.data().join("operator.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    other.reconfigure(&store.display().to_string(), "operator.sock");
    other.start();
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "mine").unwrap();
    assert_eq!(other.stop(), Some(0));
    assert_eq!(fs::read(&socket).unwrap(), b"mine");
    assert_eq!(instance.stop(), Some(0));
    assert!(!taken.exists());
}

#[test]
fn a_reader_that_has_gone_ends_neither_a_command_nor_the_service() {
    let instance = Instance::new();
    // The reading end is closed before anything is written.
    let gone = || Stdio::from(std::io::pipe().unwrap().1);
    let mut service =
        Command::new(KEYWARD).arg("serve").arg(instance.data()).stdout(gone()).stderr(gone()).spawn().unwrap();
    let list = |stdout: Stdio| {
        let list = ["cluster", "list", "--data"];
        Command::new(KEYWARD)
            .args(list)
            .arg(instance.data())
            .stdout(stdout)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
    };
    let up = (0..300).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        list(gone()) == Some(0)
    });
    assert!(up, "the service goes on, and a command ends well");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(list(full.into()), Some(65), "but an output that is lost is said so");
    assert!(Command::new("kill").arg("-TERM").arg(service.id().to_string()).status().unwrap().success());
    assert_eq!(service.wait().unwrap().code(), Some(0), "and it ends in good order");
}

#[test]
fn every_command_speaks_json() {
    let mut instance = Instance::with_cluster();
    let json = |ran: Ran| serde_json::from_str::<Value>(&ran.good()).unwrap();
    let body = instance.path("body.xml");
    fs::write(&body, instance.draft("demo").body()).unwrap();
    let identity = instance.path("node-1");
    let sign = ["license", "sign", body.to_str().unwrap(), "--as", identity.to_str().unwrap(), "--output", "json"];
    let signed = json(keyward(&sign));
    assert_eq!(signed["kind"], "use-license");
    assert!(signed["documents"].as_str().unwrap().starts_with("<XrML "), "{signed}");
    assert_eq!(instance.stop(), Some(0));
    assert_eq!(json(instance.cli(&["config", "check", "--output", "json"]))["tokens"][0]["name"], "main");
    assert_eq!(json(instance.cli(&["token", "unlatch", "main", "--output", "json"]))["state"], Value::Null);
    let made = instance.path("made");
    let made = json(keyward(&["init", made.to_str().unwrap(), "--output", "json"]));
    assert_eq!(made["token"]["name"], "main");
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_64_and_help_with_0() {
    for wrong in
        [&["no-such-command"][..], &["audit", "export"], &["init"], &["cluster", "list", "--output", "xml"], &[]]
    {
        let ran = keyward(wrong);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""), "{wrong:?} {ran:?}");
        assert!(ran.stderr.contains("--help"), "{wrong:?} {ran:?}");
    }
    for asked in [&["--help"][..], &["--version"], &["help", "audit", "verify"]] {
        assert!(keyward(asked).good().contains("keyward"), "{asked:?}");
    }
}

#[test]
fn words_that_are_too_long_for_an_answer_are_cut() {
    let mut instance = Instance::new();
    instance.start();
    let long = "u".repeat(30_000);
    let said = instance.cli(&["cluster", "create", "x", "--url", &long, "--offline"]).refused(65, "INVALID_ARGUMENT");
    assert!(said.contains("uuu…") && said.len() < 3000, "{said}");
    instance.cli(&["cluster", "get", &long]).refused(65, "INVALID_ARGUMENT");
    instance.cli(&["node", "list", &long]).refused(65, "INVALID_ARGUMENT");
}

#[test]
fn a_moved_data_directory_serves_on() {
    let mut instance = Instance::with_cluster();
    let before = instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    assert_eq!(instance.stop(), Some(0));
    let moved = instance.path("moved");
    fs::rename(instance.data(), &moved).unwrap();
    instance.start_as(Command::new(KEYWARD).arg("serve").arg(&moved));
    let data = moved.to_str().unwrap();
    let after = keyward(&["key", "get", "clusters/demo/keys/slc-1", "--data", data, "--output", "json"]).good();
    assert_eq!(serde_json::from_str::<Value>(&after).unwrap(), before);
}

#[test]
fn a_refused_pin_is_tried_once_and_latched_until_a_person_clears_it() {
    let mut instance = Instance::new();
    let path = instance.data().join("pins/main.user");
    let right = fs::read_to_string(&path).unwrap();
    fs::write(&path, "wrong-pin").unwrap();
    instance.start_waiting();
    let said = instance.printed().join("\n") + &fs::read_to_string(instance.path("serve.log")).unwrap();
    assert!(said.contains("keyward token unlatch main"), "{said}");
    assert!(!said.contains("wrong-pin") && !said.contains(&right), "no PIN in what it says");

    // Even the right PIN is not tried while the latch is set: not on a person's word, and not at the next start.
    fs::write(&path, &right).unwrap();
    for _ in 0..2 {
        instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
        assert_eq!(instance.stop(), Some(0));
        instance.start_waiting();
    }
    let none = instance.cli(&["token", "unlatch", "other"]).refused(65, "NOT_FOUND");
    assert!(none.contains("next: name one of: main"), "{none}");
    let cleared = instance.cli(&["token", "unlatch", "main"]).good();
    assert!(cleared.contains("main is unlatched, as you are an operator"), "{cleared}");
    instance.cli(&["token", "login", "main"]).good();
    instance.wait_for_line("ready");
    let log = instance.log();
    let states: Vec<_> = events(&log, "token-state").iter().map(|event| event["state"].clone()).collect();
    let tried = ["login-begun", "logged-in", "login-begun", "latched", "unlatched", "login-begun", "logged-in"];
    assert_eq!(states, tried, "one refused try in all, between init and the last login");
    let text = serde_json::to_string(&log).unwrap();
    assert!(!text.contains("wrong-pin") && !text.contains(&right), "no PIN in the log");
}

#[test]
fn a_pin_that_others_can_read_is_not_used() {
    let instance = Instance::new();
    let path = instance.data().join("pins/main.user");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = instance.serve_fails().refused(78, "PIN_SOURCE");
    assert!(said.contains("next: chmod 600"), "{said}");
    fs::remove_file(&path).unwrap();
    let said = instance.serve_fails().refused(78, "PIN_SOURCE");
    assert!(said.contains("next: write the PIN into that file"), "{said}");
}

#[test]
fn a_token_is_known_by_serial_and_label_together() {
    let mut instance = Instance::new();
    let serial = setting(&instance, "serial");
    instance.reconfigure(&serial, "0000000000000000");
    let said = instance.serve_fails().refused(78, "TOKEN_MISSING");
    assert!(said.contains(&serial), "the tokens that are there are named: {said}");
    instance.reconfigure("0000000000000000", &serial);

    // A second token of the same label beside it: the serial tells them apart.
    let label = setting(&instance, "label");
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", instance.data().join("token/softhsm2.conf"))
        .args(["--init-token", "--free", "--label", &label, "--pin", "1234", "--so-pin", "12345678"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    instance.start();
    assert_eq!(instance.stop(), Some(0));

    // Two settings of one name.
    let path = instance.data().join("keyward.toml");
    let text = fs::read_to_string(&path).unwrap();
    let token = &text[text.find("[[token]]").unwrap()..];
    fs::write(&path, format!("{text}\n{token}")).unwrap();
    let said = instance.serve_fails().refused(78, "CONFIG_INVALID");
    assert!(said.contains("token main: two tokens or replicas have this name"), "{said}");
}

#[test]
fn a_missing_module_is_named_with_where_it_was_looked_for() {
    let instance = Instance::new();
    let profile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles/softhsm.toml")).unwrap();
    let path = instance.path("gone.toml");
    let gone: String = profile
        .lines()
        .map(|line| {
            if line.trim_start().starts_with("\"/usr/") {
                "    \"/nowhere/module.so\",\n".into()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write(&path, gone).unwrap();
    instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", path.display()));
    let said = instance.serve_fails().refused(78, "MODULE_MISSING");
    assert!(said.contains("/nowhere/module.so") && said.contains("next:"), "{said}");
}

#[test]
fn every_fault_of_a_configuration_is_named_at_once() {
    let instance = Instance::new();
    instance.cli(&["config", "check"]).good();
    instance.reconfigure("[store]", "[store]\nsize = 1");
    instance.reconfigure("listen = \"127.0.0.1:0\"", "listen = \"somewhere\"");
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("store.size") && said.contains("api.listen"), "{said}");
    let same = instance.serve_fails().refused(78, "CONFIG_INVALID");
    assert_eq!(said, same);
    keyward(&["serve", instance.path("none").to_str().unwrap()]).refused(78, "DATA_DIRECTORY");

    let next = format!("next: correct the file, then: keyward config check --data {}", instance.data().display());
    assert!(said.contains(&next), "{said}");
}

#[test]
fn every_file_that_a_configuration_names_is_looked_at() {
    let instance = Instance::new();
    instance.reconfigure("profile = \"softhsm\"", "profile = \"no-such-device\"");
    instance.reconfigure("authority = \"tls/authority.pem\"", "authority = \"keyward.toml\"");
    fs::remove_file(instance.data().join("pins/main.user")).unwrap();
    fs::write(instance.data().join("audit.trust"), "nothing").unwrap();
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    for words in ["no-such-device", "the PIN of token main", "tls.authority: ", "audit.trust: ", "chmod 600"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_data_directory_has_one_process_and_a_port_one_listener() {
    let mut instance = Instance::new();
    instance.start();
    instance.serve_fails().refused(78, "DATA_DIRECTORY_IN_USE");
    instance.cli(&["token", "probe", "main"]).refused(78, "DATA_DIRECTORY_IN_USE");

    let other = Instance::new();
    let taken = instance.server().replace("https://", "");
    other.reconfigure("listen = \"127.0.0.1:0\"", &format!("listen = \"{taken}\""));
    let said = other.serve_fails().refused(78, "ADDRESS_IN_USE");
    assert!(said.contains(&taken), "{said}");
    instance.cli(&["cluster", "list"]).good();
}

#[test]
fn a_store_that_is_none_or_newer_is_not_touched() {
    let instance = Instance::new();
    let path = instance.data().join("keyward.db");
    let content = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    instance.serve_fails().refused(74, "STORE_UNAVAILABLE");
    assert!(!path.exists(), "a lost store is not silently replaced by an empty one");
    for other in [String::new(), "this is no database".into(), "nor is this ".repeat(1000)] {
        fs::write(&path, &other).unwrap();
        instance.serve_fails().refused(74, "STORE_UNAVAILABLE");
        assert_eq!(fs::read(&path).unwrap(), other.as_bytes(), "and it did not become one");
    }
    fs::write(&path, content).unwrap();
    let schema = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2030-01-01', 1, x'00', 0)";
    let script = "import sqlite3,sys; d=sqlite3.connect(sys.argv[1]); d.execute(sys.argv[2]); d.commit()";
    let done = Command::new("python3").args(["-c", script]).arg(&path).arg(schema).status().unwrap();
    assert!(done.success());
    let said = instance.serve_fails().refused(74, "SCHEMA_NEWER");
    assert!(said.contains("9999"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_while_the_clock_is_behind_the_log() {
    let instance = Instance::new();
    // The last record is an hour ahead: what a clock that was set back looks like.
    let path = instance.data().join("keyward.db");
    let store = Sqlite::open(&path, false).await.unwrap();
    let (mut head, mut tree) = store.tree();
    store.close().await;
    let record = head.append(&Event::LogClosed {}.bytes().unwrap(), &Moment::of(head.time_us + 3_600_000_000)).unwrap();
    tree.append(TreeHash::leaf(&record.bytes), |_, _, _| {});
    let rows = format!(
        "INSERT INTO entry VALUES ({}, x'{}'); UPDATE log SET size = {}, chain = x'{}', time_us = {}, frontier = x'{}'",
        record.seq,
        hex::encode(&record.bytes),
        head.size,
        head.chain,
        head.time_us,
        hex::encode(tree.to_bytes())
    );
    let script = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
    assert!(Command::new("python3").args(["-c", script]).arg(&path).arg(rows).status().unwrap().success());
    // The first signature of a start is that of the server's own certificate.
    let said = instance.serve_fails().refused(78, "CLOCK_BEHIND");
    assert!(said.contains("next: set the clock right"), "{said}");
}

#[test]
fn a_store_that_cannot_be_written_is_said_so_at_the_start() {
    let mut instance = Instance::new();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    // No file may be written at all.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" serve \"$1\"";
    ends(Command::new("bash").args(["-c", script, KEYWARD]).arg(instance.data())).refused(74, "STORE_UNAVAILABLE");
}

#[test]
fn a_license_file_that_is_cut_off_or_no_utf8_is_refused_and_no_output_is_made() {
    let instance = Instance::with_cluster();
    let identity = instance.path("node-1");
    let body = instance.draft("demo").body();
    let out = instance.path("out.xml");
    let sign = |content: &[u8]| {
        let file = instance.path("body.xml");
        fs::write(&file, content).unwrap();
        // The node's file names the port of the first start, which still runs.
        keyward(&[
            "license",
            "sign",
            file.to_str().unwrap(),
            "--as",
            identity.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ])
    };
    sign(&body.as_bytes()[..body.len() / 2]).refused(65, "DOCUMENT_MALFORMED");
    let said =
        sign(&[&body.as_bytes()[..10], &[0xff], &body.as_bytes()[10..]].concat()).refused(65, "DOCUMENT_MALFORMED");
    assert!(said.contains("byte 10"), "{said}");
    assert!(!out.exists());
    sign(format!("{body}\n").as_bytes()).good();
    let first = fs::read(&out).unwrap();
    let again = sign(body.as_bytes());
    assert_eq!(again.code, Some(65), "{again:?}");
    assert_eq!(fs::read(&out).unwrap(), first, "an existing file is never overwritten");
}

#[test]
fn names_are_checked_and_taken_once() {
    let instance = Instance::with_cluster();
    let request = instance.path("request.xml");
    let create = |id: &str, url: &str| {
        let args = ["cluster", "create", id, "--url", url, "--offline", "--request", request.to_str().unwrap()];
        instance.cli(&args)
    };
    create("demo", "https://x").refused(65, "ALREADY_EXISTS");
    create("Demo", "https://x").refused(65, "INVALID_ARGUMENT");
    create("x", "rms").refused(65, "INVALID_ARGUMENT");
    assert!(!request.exists());
    let out = instance.path("again");
    let invite = |id: &str, cluster: &str| {
        instance.cli(&["node", "invite", id, "--cluster", cluster, "--out", out.to_str().unwrap()])
    };
    invite("node-1", "demo").refused(65, "ALREADY_EXISTS");
    invite("node-2", "none").refused(65, "NOT_FOUND");
    assert!(!out.exists(), "no file is left of a join token that was not made");
    assert_eq!(instance.json(&["cluster", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(instance.json(&["node", "list", "demo"])[0]["name"], "clusters/demo/nodes/node-1");
    assert_eq!(instance.json(&["key", "list", "demo"])[0]["state"], "active");
    instance.cli(&["key", "list", "NOPE"]).refused(65, "NOT_FOUND");
    instance.cli(&["node", "list", "NOPE"]).refused(65, "NOT_FOUND");
}

#[test]
fn the_evidence_of_a_key_says_where_it_was_made_and_that_it_cannot_leave() {
    let instance = Instance::with_cluster();
    let key = instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    let attributes = &key["evidence"]["attributes"];
    for (name, value) in [
        ("CKA_LOCAL", "true"),
        ("CKA_SENSITIVE", "true"),
        ("CKA_ALWAYS_SENSITIVE", "true"),
        ("CKA_EXTRACTABLE", "false"),
        ("CKA_NEVER_EXTRACTABLE", "true"),
        ("CKA_MODIFIABLE", "false"),
        ("CKA_COPYABLE", "false"),
        ("CKA_UNWRAP", "false"),
        ("CKA_KEY_GEN_MECHANISM", "CKM_RSA_PKCS_KEY_PAIR_GEN"),
        ("CKA_MODULUS_BITS", "2048"),
    ] {
        assert_eq!(attributes[name], value, "{name}");
    }
    assert_eq!(key["evidence"]["gaps"], serde_json::json!({}));
    assert_eq!(key["evidence"]["token_serial"], setting(&instance, "serial"));
}

#[test]
fn a_command_without_a_service_says_how_to_start_one() {
    let instance = Instance::new();
    let said = instance.cli(&["cluster", "list"]).refused(76, "PEER_UNREACHABLE");
    assert!(said.contains("next: start the service first: keyward serve DIR"), "{said}");
}

#[test]
fn an_export_is_verified_offline_and_every_kind_of_verdict_has_its_exit_code() {
    let instance = Instance::with_cluster();
    let out = instance.export();
    let (file, trust) = (out.join("audit.jsonl"), instance.data().join("audit.trust"));
    let text = fs::read_to_string(&file).unwrap();
    let verify = |content: &str, trust: Option<&std::path::Path>| {
        fs::write(&file, content).unwrap();
        let mut args =
            vec!["audit".to_owned(), "verify".into(), file.display().to_string(), "--output".into(), "json".into()];
        args.extend(trust.into_iter().flat_map(|trust| ["--trust".to_owned(), trust.display().to_string()]));
        keyward(&args)
    };
    assert_eq!(verify(&text, Some(&trust)).code, Some(0));
    assert_eq!(verify(&text, None).code, Some(2), "without trust nobody vouches for it");
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    assert_eq!(verify(cut, Some(&trust)).code, Some(1), "a line cut from the end");
    assert_eq!(verify(&text[..text.len() - 10], Some(&trust)).code, Some(2), "the last line cut in two, as by a crash");
    let changed = verify(&text.replacen("node-1", "node-9", 1), Some(&trust));
    assert_eq!(changed.code, Some(1));
    let report: Value = serde_json::from_str(&changed.stdout).unwrap();
    assert!(report["broken"]["line"].as_u64().unwrap() > 1, "{report}");
    let other = Instance::new();
    let foreign = verify(&text, Some(&other.data().join("audit.trust")));
    assert_eq!(foreign.code, Some(1), "another log's trust");
    assert!(foreign.stderr.contains("next: get audit.trust"), "{foreign:?}");
    let none = keyward(&["audit", "verify", "/nowhere/audit.jsonl"]);
    assert_eq!(none.code, Some(3));
    assert!(none.stderr.contains("next: "), "{none:?}");
    fs::write(&file, &text).unwrap();
    let again = instance.cli(&["audit", "export", "--out", out.to_str().unwrap()]);
    again.refused(65, "INVALID_ARGUMENT");
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "an export never overwrites another");
}

#[test]
fn the_bench_measures_all_sides_in_one_run_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let within = place.path().to_str().unwrap();
    let ran = keyward(&["bench", "sign", "--seconds", "1", "--callers", "1,4", "--within", within, "--output", "json"]);
    let report: Value = serde_json::from_str(&ran.good()).unwrap();
    assert!(report["raw_per_s"].as_u64().unwrap() > 0 && report["fdatasync_us"].as_u64().is_some());
    assert!(report["rss_mib"].as_f64().unwrap() > 1.0);
    let callers = report["callers"].as_array().unwrap();
    assert_eq!(callers.iter().map(|row| row["callers"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 4]);
    for row in callers {
        assert!(row["per_s"].as_u64().unwrap() > 0 && row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["p50_us"].as_u64().unwrap() <= row["p99_us"].as_u64().unwrap(), "{row}");
        for part in ["token_host_cpu_us", "service_cpu_us", "callers_cpu_us"] {
            assert!(row[part].as_u64().unwrap() > 0, "{part}: {row}");
        }
    }
    let lone = &report["lone_call_us"];
    let parts = ["token", "two_fdatasync", "rest"].map(|part| lone[part].as_i64().unwrap());
    assert!((parts.iter().sum::<i64>() - lone["p50"].as_i64().unwrap()).abs() <= 1, "{lone}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn the_bench_of_a_token_measures_both_sides_and_leaves_a_named_directory() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("token");
    let named = ["--directory", directory.to_str().unwrap(), "--output", "json"];
    let ran = keyward(&[&["bench", "token", "--seconds", "1", "--sessions", "1"][..], &named].concat());
    let report: Value = serde_json::from_str(&ran.good()).unwrap();
    let [row] = report["sessions"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert!(row["bare_per_s"].as_f64().unwrap() > 0.0 && row["ratio"].as_f64().unwrap() > 0.0, "{row}");
    assert!(report["one_caller"]["p50_us"].as_f64().unwrap() > 0.0, "{report}");
    assert!(directory.is_dir());
}
