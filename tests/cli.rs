//! The command line and the files it makes: what goes wrong, in words, and with nothing half-made.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::kit::{Instance, ends, events, keyward};

/// Changes the configuration of an instance.
fn reconfigure(instance: &Instance, from: &str, to: &str) {
    let path = instance.data().join("keyward.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

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
fn a_moved_data_directory_serves_on() {
    let mut instance = Instance::with_cluster();
    let before = instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    assert_eq!(instance.stop(), Some(0));
    let moved = instance.path("moved");
    fs::rename(instance.data(), &moved).unwrap();
    instance.start_as(Command::new(crate::kit::KEYWARD).arg("serve").arg(&moved));
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
    let first = instance.serve_fails().refused(69, "PIN_REFUSED");
    assert!(first.contains("keyward token unlatch main"), "{first}");
    assert!(!first.contains("wrong-pin") && !first.contains(&right), "no PIN in an error");

    // Even the right PIN is not tried while the latch is set, and restarts do not clear it.
    fs::write(&path, &right).unwrap();
    for _ in 0..2 {
        instance.serve_fails().refused(69, "PIN_LATCHED");
    }
    instance.cli(&["token", "unlatch", "other"]).refused(65, "NOT_FOUND");
    let cleared = instance.cli(&["token", "unlatch", "main"]).good();
    assert!(cleared.contains("main is unlatched"), "{cleared}");
    instance.start();
    let log = instance.log();
    let states: Vec<_> = events(&log, "token-state").iter().map(|event| event["state"].clone()).collect();
    let tried = ["login-begun", "logged-in", "login-begun", "latched", "unlatched", "login-begun", "logged-in"];
    assert_eq!(states, tried, "one refused try in all, between init and the last start");
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
    instance.serve_fails().refused(78, "PIN_SOURCE");
}

#[test]
fn a_token_is_known_by_serial_and_label_together() {
    let mut instance = Instance::new();
    let serial = setting(&instance, "serial");
    reconfigure(&instance, &serial, "0000000000000000");
    let said = instance.serve_fails().refused(78, "TOKEN_MISSING");
    assert!(said.contains(&serial), "the tokens that are there are named: {said}");
    reconfigure(&instance, "0000000000000000", &serial);

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
    assert!(said.contains("token main: two tokens have this name"), "{said}");
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
    reconfigure(&instance, "profile = \"softhsm\"", &format!("profile = \"{}\"", path.display()));
    let said = instance.serve_fails().refused(78, "MODULE_MISSING");
    assert!(said.contains("/nowhere/module.so") && said.contains("next:"), "{said}");
}

#[test]
fn every_fault_of_a_configuration_is_named_at_once() {
    let instance = Instance::new();
    instance.cli(&["config", "check"]).good();
    reconfigure(&instance, "[store]", "[store]\nsize = 1");
    reconfigure(&instance, "listen = \"127.0.0.1:0\"", "listen = \"somewhere\"");
    let said = instance.cli(&["config", "check"]).refused(78, "CONFIG_INVALID");
    assert!(said.contains("store.size") && said.contains("api.listen"), "{said}");
    let same = instance.serve_fails().refused(78, "CONFIG_INVALID");
    assert_eq!(said, same);
    keyward(&["serve", instance.path("none").to_str().unwrap()]).refused(78, "DATA_DIRECTORY");
}

#[test]
fn a_data_directory_has_one_process_and_a_port_one_listener() {
    let mut instance = Instance::new();
    instance.start();
    instance.serve_fails().refused(78, "DATA_DIRECTORY_IN_USE");
    instance.cli(&["token", "unlatch", "main"]).refused(78, "DATA_DIRECTORY_IN_USE");

    let other = Instance::new();
    let taken = instance.server().replace("https://", "");
    reconfigure(&other, "listen = \"127.0.0.1:0\"", &format!("listen = \"{taken}\""));
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

#[test]
fn a_store_that_cannot_be_written_is_said_so_at_the_start() {
    let mut instance = Instance::new();
    instance.start();
    assert_eq!(instance.stop(), Some(0));
    // No file may be written at all.
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {} serve {}", crate::kit::KEYWARD, instance.data().display());
    ends(Command::new("bash").arg("-c").arg(script)).refused(74, "STORE_UNAVAILABLE");
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
    assert_eq!(verify(&text[..text.len() - 10], Some(&trust)).code, Some(1), "a line cut in two");
    let changed = verify(&text.replacen("node-1", "node-9", 1), Some(&trust));
    assert_eq!(changed.code, Some(1));
    let report: Value = serde_json::from_str(&changed.stdout).unwrap();
    assert!(report["broken"]["line"].as_u64().unwrap() > 1, "{report}");
    let other = Instance::new();
    assert_eq!(verify(&text, Some(&other.data().join("audit.trust"))).code, Some(1), "another log's trust");
    assert_eq!(keyward(&["audit", "verify", "/nowhere/audit.jsonl"]).code, Some(3));
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
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
