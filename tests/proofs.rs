//! Proofs about the log that somebody else can check: from the service, from an export alone, and offline; and the change
//! of the key that signs them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit::token::faulty::fail_by_script;
use crate::kit::{Instance, Ran, events, eventually, keyward};
use crate::store_away::Holder;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running instance and two licenses that it signed.
async fn with_licenses() -> (Instance, [PathBuf; 2]) {
    let instance = Instance::with_cluster();
    let (node, draft) = (instance.connect("node-1").await, instance.draft("demo"));
    let mut licenses = Vec::new();
    for user in ["alice@example.test", "bob@example.test"] {
        let draft = crate::kit::Draft { user: user.into(), ..draft.clone() };
        let signed = node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap().into_inner();
        let path = instance.path(&format!("{user}.xml"));
        fs::write(&path, signed.document).unwrap();
        licenses.push(path);
    }
    (instance, licenses.try_into().unwrap())
}

fn verify_proof(instance: &Instance, proof: &Path, more: &[&str]) -> Ran {
    let trust = instance.data().join("audit.trust");
    keyward(&[&["audit", "verify-proof", text(proof), "--trust", text(&trust), "--output", "json"], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_license_was_signed_is_proved_from_an_export_alone_and_checked_without_anything() {
    let (mut instance, [license, other]) = with_licenses().await;
    let export = instance.export().join("audit.jsonl");
    assert_eq!(instance.stop(), Some(0));
    let prove = |license: &Path, out: &str| {
        let out = instance.path(out);
        let args = ["audit", "prove", "--file", text(license), "--export", text(&export), "--out", text(&out)];
        (keyward(&args), out)
    };
    let (ran, proof) = prove(&license, "license.tlog-proof");
    ran.good();
    let shown: Value =
        serde_json::from_str(&verify_proof(&instance, &proof, &["--file", text(&license)]).good()).unwrap();
    assert_eq!(shown["event"]["type"], "outcome", "{shown}");
    let log = fs::read_to_string(&export).unwrap();
    let line = log.lines().nth(usize::try_from(shown["record"].as_u64().unwrap()).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["event"], shown["event"]);

    // Of another document, of a changed one, and of one that this log does not know.
    verify_proof(&instance, &proof, &["--file", text(&other)]).refused(1, "SIGNATURE_INVALID");
    let changed = instance.path("changed.xml");
    fs::write(&changed, fs::read_to_string(&license).unwrap().replace("alice", "carol")).unwrap();
    prove(&changed, "none").0.refused(65, "SIGNATURE_INVALID");
    let (stranger, [foreign, _]) = with_licenses().await;
    let (ran, none) = prove(&foreign, "none");
    ran.refused(65, "NOT_FOUND");
    assert!(!none.exists(), "nothing half-made is left");

    // Under other keys, and after any change, it does not hold.
    let foreign_trust = stranger.data().join("audit.trust");
    let args = ["audit", "verify-proof", text(&proof), "--trust", text(&foreign_trust)];
    keyward(&args).refused(1, "SIGNATURE_INVALID");
    let good = fs::read_to_string(&proof).unwrap();
    let changed = instance.path("changed.tlog-proof");
    fs::write(&changed, good.replace("index ", "index 1")).unwrap();
    verify_proof(&instance, &changed, &[]).refused(1, "SIGNATURE_INVALID");
    fs::write(&changed, &good[..good.len() / 2]).unwrap();
    assert_eq!(verify_proof(&instance, &changed, &[]).code, Some(3));

    // An export that was changed proves nothing.
    fs::write(&export, log.replace("node-1", "node-2")).unwrap();
    prove(&license, "none").0.refused(74, "RECORD_BROKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_record_is_proved_by_the_service_up_to_the_newest() {
    let (instance, [license, other]) = with_licenses().await;
    let log = instance.log();
    for seq in [0, 1, log.len() / 2, log.len() - 1] {
        let proof = instance.path(&format!("{seq}.tlog-proof"));
        instance.cli(&["audit", "prove", "--entry", &seq.to_string(), "--out", text(&proof)]).good();
        let shown: Value = serde_json::from_str(&verify_proof(&instance, &proof, &[]).good()).unwrap();
        assert_eq!((&shown["event"], shown["record"].as_u64()), (&log[seq]["event"], Some(seq as u64)));
    }
    let none = instance.path("none");
    instance.cli(&["audit", "prove", "--entry", "100000", "--out", text(&none)]).refused(65, "NOT_FOUND");
    assert!(!none.exists());
    // A document by its GUID or by itself: the record that has its signature.
    let proof = instance.path("document.tlog-proof");
    instance.cli(&["audit", "prove", "--file", text(&license), "--out", text(&proof)]).good();
    verify_proof(&instance, &proof, &["--file", text(&license)]).good();
    verify_proof(&instance, &proof, &["--file", text(&other)]).refused(1, "SIGNATURE_INVALID");
    // Both licenses have the same GUID; the newest counts.
    let guid = "{7a925b0c-b918-450b-8b7f-33719847a8b2}";
    let by_guid = instance.path("guid.tlog-proof");
    instance.cli(&["audit", "prove", "--certificate", guid, "--out", text(&by_guid)]).good();
    verify_proof(&instance, &by_guid, &["--file", text(&other)]).good();
    instance.cli(&["audit", "prove", "--certificate", "{0}", "--out", text(&none)]).refused(65, "NOT_FOUND");
    let both = ["audit", "prove", "--entry", "1", "--since", "x", "--out", text(&none)];
    assert_eq!(instance.cli(&both).code, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn that_the_log_continues_an_earlier_checkpoint_is_proved() {
    let mut instance = Instance::new();
    instance.start();
    let earlier = instance.path("earlier.checkpoint");
    instance.cli(&["audit", "checkpoint", "--out", text(&earlier)]).good();
    instance.cluster("demo");
    let proof = instance.path("continues");
    let since = ["audit", "prove", "--since", text(&earlier), "--out"];
    instance.cli(&[&since[..], &[text(&proof)]].concat()).good();
    let continues = |since: &Path| verify_proof(&instance, &proof, &["--since", text(since)]);
    let shown: Value = serde_json::from_str(&continues(&earlier).good()).unwrap();
    assert!(shown["records"].as_u64() > shown["continues"].as_u64(), "{shown}");

    // Another instance's log does not continue this one's, and says so.
    let mut other = Instance::new();
    other.start();
    let foreign = other.path("foreign.checkpoint");
    other.cli(&["audit", "checkpoint", "--out", text(&foreign)]).good();
    continues(&foreign).refused(1, "SIGNATURE_INVALID");
    let newer = instance.path("newer.checkpoint");
    instance.cli(&["audit", "checkpoint", "--out", text(&newer)]).good();
    assert_eq!(continues(&newer).code, Some(3), "a proof from another size");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_audit_key_is_vouched_for_by_the_old_one_and_both_sides_of_the_change_verify() {
    let (mut instance, [license, _]) = with_licenses().await;
    let trust = instance.data().join("audit.trust");
    let given_out = instance.path("given-out.trust");
    fs::copy(&trust, &given_out).unwrap();
    let before = instance.export();

    let rotated = instance.json(&["audit", "rotate-key"]);
    assert_eq!(rotated["key"], "keys/audit-2");
    let again = instance.json(&["audit", "rotate-key"]);
    assert_eq!(again["key"], "keys/audit-3");
    let after = instance.export();
    for export in [&before, &after] {
        instance.verify(export).good();
    }
    let (old, new) = (fs::read_to_string(&given_out).unwrap(), fs::read_to_string(&trust).unwrap());
    assert!(new.starts_with(&old), "the history is only ever continued");
    assert_eq!(fs::read_to_string(after.join("audit.trust")).unwrap(), new);

    // Across a restart, the newest key signs.
    assert_eq!(instance.stop(), Some(0));
    instance.start();
    let log = instance.log();
    let rotations: Vec<_> =
        events(&log, "performed").into_iter().filter(|event| event["operation"] == "rotate-audit-key").collect();
    assert_eq!(rotations.iter().map(|event| &event["target"]).collect::<Vec<_>>(), ["keys/audit-2", "keys/audit-3"]);
    let proof = instance.path("license.tlog-proof");
    let export = after.join("audit.jsonl");
    keyward(&["audit", "prove", "--file", text(&license), "--export", text(&export), "--out", text(&proof)]).good();
    verify_proof(&instance, &proof, &["--file", text(&license)]).good();

    let by_first = |export: &Path| {
        let file = export.join("audit.jsonl");
        keyward(&["audit", "verify", text(&file), "--trust", text(&given_out)])
    };
    by_first(&before).good();
    by_first(&after).good();
    fs::remove_file(after.join("audit.trust")).unwrap();
    assert_eq!(by_first(&after).code, Some(1));

    // Who has the first file only follows the later one, because it continues the first; and no other.
    let args = ["audit", "verify-proof", text(&proof), "--trust", text(&given_out)];
    keyward(&args).refused(1, "SIGNATURE_INVALID");
    keyward(&[&args[..], &["--later-trust", text(&trust)]].concat()).good();
    let stranger = Instance::new();
    let foreign = stranger.data().join("audit.trust");
    keyward(&[&args[..], &["--later-trust", text(&foreign)]].concat()).refused(1, "SIGNATURE_INVALID");
}

#[test]
fn another_instance_countersigns_a_checkpoint_that_continues_the_one_before_and_no_other() {
    let (mut log, mut witness) = (Instance::new(), Instance::new());
    log.start();
    witness.start();
    let trust = log.data().join("audit.trust");
    let checkpoint = |name: &str| {
        let path = log.path(name);
        log.cli(&["audit", "checkpoint", "--out", text(&path)]).good();
        path
    };
    let countersign = |proof: &Path, out: &str| {
        let out = log.path(out);
        let args = ["audit", "countersign", text(proof), "--trust", text(&trust), "--out", text(&out)];
        (witness.cli(&args), out)
    };
    let witnessed = |proof: &Path| {
        let by = witness.data().join("audit.trust");
        verify_proof(&log, proof, &["--witness", text(&by)])
    };
    let export = log.export();
    let first = export.join("audit.checkpoint");
    witnessed(&first).refused(1, "SIGNATURE_INVALID");
    let (ran, signed) = countersign(&first, "first.signed");
    ran.good();
    witnessed(&signed).good();
    // Under the log's own name that signature is none, with whichever id of the key.
    let of = |instance: &Instance| {
        let trust = fs::read_to_string(instance.data().join("audit.trust")).unwrap();
        trust.lines().nth(1).unwrap().to_owned()
    };
    let note = fs::read_to_string(&signed).unwrap();
    let (body, lines) = note.rsplit_once("\n\n").unwrap();
    let line = lines.lines().find(|line| line.contains(&of(&witness))).unwrap();
    let renamed = log.path("renamed");
    fs::write(&renamed, format!("{body}\n\n{}\n", line.replace(&of(&witness), &of(&log)))).unwrap();
    verify_proof(&log, &renamed, &[]).refused(1, "SIGNATURE_INVALID");
    // The other verifier says the same.
    let records = export.join("audit.jsonl");
    let by = witness.data().join("audit.trust");
    let python = |checkpoint: &Path, by: &Path| {
        let options = ["--checkpoint", text(checkpoint), "--trust", text(&trust), "--witness", text(by)].map(Path::new);
        crate::kit::python("verify_audit.py", &[&[&*records], &options[..]].concat())
    };
    assert!(python(&signed, &by).good().contains("cosigned    ok"));
    for (checkpoint, by) in [(&first, &by), (&renamed, &by), (&signed, &trust)] {
        assert_eq!(python(checkpoint, by).code, Some(1));
    }

    // What comes later must be proved to continue that.
    log.cluster("demo");
    let (ran, none) = countersign(&checkpoint("second"), "none");
    let said = ran.refused(65, "INVALID_ARGUMENT");
    assert!(said.contains("--since") && !none.exists(), "{said}");
    let proof = log.path("continues");
    log.cli(&["audit", "prove", "--since", text(&first), "--out", text(&proof)]).good();
    let (ran, signed) = countersign(&proof, "second.signed");
    ran.good();
    witnessed(&signed).good();
    let (ran, _) = countersign(&first, "none");
    ran.refused(65, "INVALID_ARGUMENT");

    let records = witness.log();
    let acts = events(&records, "performed");
    let acts: Vec<_> = acts.iter().filter(|event| event["operation"] == "countersign-checkpoint").collect();
    assert_eq!(acts.len(), 2, "each is recorded");
    let own = witness.path("own");
    witness.cli(&["audit", "checkpoint", "--out", text(&own)]).good();
    let (own_trust, none) = (witness.data().join("audit.trust"), witness.path("none"));
    let args = ["audit", "countersign", text(&own), "--trust", text(&own_trust), "--out", text(&none)];
    witness.cli(&args).refused(65, "INVALID_ARGUMENT");
}

#[test]
fn an_instance_whose_own_log_does_not_hold_countersigns_no_other() {
    let (mut log, mut witness) = (Instance::new(), Instance::new());
    log.start();
    witness.start();
    let (trust, first, out) = (log.data().join("audit.trust"), log.path("first"), log.path("signed"));
    log.cli(&["audit", "checkpoint", "--out", text(&first)]).good();
    witness.cluster("demo");
    let edit = "UPDATE entry SET record = CAST(replace(CAST(record AS TEXT), 'a', 'b') AS BLOB) \
                WHERE seq = (SELECT max(seq) FROM entry)";
    witness.sql(None, edit);
    witness.cli(&["audit", "checkpoint", "--out", text(&witness.path("own"))]).refused(74, "RECORD_BROKEN");
    let args = ["audit", "countersign", text(&first), "--trust", text(&trust), "--out", text(&out)];
    witness.cli(&args).refused(74, "RECORD_BROKEN");
    assert!(!out.exists());
}

#[test]
fn who_handed_the_log_over_to_a_new_key_is_recorded_before_that_key_is_used() {
    let mut instance = Instance::new();
    instance.start();
    // In the way of the next history of audit keys.
    fs::create_dir(instance.data().join("audit.trust.new")).unwrap();
    let given_out = fs::read_to_string(instance.data().join("audit.trust")).unwrap();
    instance.cli(&["audit", "rotate-key"]).refused(78, "DATA_DIRECTORY");
    assert_eq!(fs::read_to_string(instance.data().join("audit.trust")).unwrap(), given_out);
    let log = instance.log();
    let recorded = events(&log, "performed");
    assert!(recorded.iter().any(|event| event["operation"] == "rotate-audit-key" && event["target"] == "keys/audit-2"));
    fs::remove_dir(instance.data().join("audit.trust.new")).unwrap();
    instance.json(&["audit", "rotate-key"]);
}

/// The state of the first audit key.
fn state_of_the_first_key(instance: &Instance) -> String {
    instance.json(&["key", "get", "keys/audit"])["state"].as_str().unwrap().to_owned()
}

#[test]
fn an_audit_key_that_handed_over_is_archived_later_if_it_cannot_be_then() {
    let mut instance = Instance::new();
    let held = instance.path("held");
    let wanted = format!("@{}", held.display());
    // The service is killed, and then the store is away.
    for killed in [true, false] {
        fs::write(&held, "after-trust:rotate-audit-key").unwrap();
        instance.start_with(&[("KEYWARD_FAULTPOINT", &wanted)]);
        let data = instance.data();
        let rotating = std::thread::spawn(move || keyward(&["audit", "rotate-key", "--data", text(&data)]));
        instance.wait_for_line("faultpoint after-trust:rotate-audit-key");
        if killed {
            instance.kill();
            assert_ne!(rotating.join().unwrap().code, Some(0));
            fs::remove_file(&held).unwrap();
            instance.start();
        } else {
            let mut holder = Holder::new(&instance);
            fs::remove_file(&held).unwrap();
            rotating.join().unwrap().good();
            holder.end();
        }
        eventually("the old key is archived", || {
            let log = instance.log();
            let archived = events(&log, "changed").into_iter().filter(|event| {
                event["object"] == "key"
                    && event["name"].as_str().unwrap().starts_with("keys/audit")
                    && event["version"] == 2
            });
            archived.count() == if killed { 1 } else { 2 }
        });
        assert_eq!(state_of_the_first_key(&instance), "archived");
        assert_eq!(instance.stop(), Some(0));
    }
    assert_eq!(instance.cli(&["audit", "verify"]).code, Some(0));
}

#[test]
fn an_audit_key_that_handed_over_and_is_missing_is_archived_when_its_token_shows_it_again() {
    let mut instance = Instance::new();
    let script = fail_by_script(&instance);
    let held = instance.path("held");
    fs::write(&held, "after-trust:rotate-audit-key").unwrap();
    instance.start_with(&[("KEYWARD_FAULTPOINT", &format!("@{}", held.display()))]);
    let id = instance.json(&["key", "get", "keys/audit"])["id"].as_str().unwrap().to_owned();
    let data = instance.data();
    let rotating = std::thread::spawn(move || keyward(&["audit", "rotate-key", "--data", text(&data)]));
    instance.wait_for_line("faultpoint after-trust:rotate-audit-key");
    instance.kill();
    assert_ne!(rotating.join().unwrap().code, Some(0));
    fs::remove_file(&held).unwrap();
    fs::write(&script, format!("C_FindObjectsInit always swap {id} {}", "0".repeat(40))).unwrap();
    instance.start();
    assert_eq!(state_of_the_first_key(&instance), "missing");
    eventually("it is looked after", || {
        let log = instance.log();
        let changed = events(&log, "changed").into_iter().filter(|event| event["name"] == "keys/audit");
        changed.count() == 3
    });
    fs::write(&script, "").unwrap();
    eventually("the old key is archived", || state_of_the_first_key(&instance) == "archived");
}
