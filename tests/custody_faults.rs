//! What custody makes of a token that fails: what the caller gets, what the log says, and what is never tried again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward::error::{Error, Reason};
use keyward::grpc::client::{Connection, failed};
use keyward::grpc::v1;
use serde_json::Value;

use crate::kit::token::faulty::faulty_profile;
use crate::kit::{Draft, Instance, KEYWARD, events, eventually, keyward};
use crate::store_away::Holder;
use crate::tokens::{kill_host, replica};

/// A running instance with an enrolled cluster and a node, whose token fails by script.
pub(crate) struct Faulty {
    pub(crate) instance: Instance,
    draft: Draft,
    script: PathBuf,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        let mut instance = Instance::with_cluster();
        let draft = instance.draft("demo");
        assert_eq!(instance.stop(), Some(0));
        let script = instance.path("script");
        fs::write(&script, "").unwrap();
        let path = faulty_profile(&instance, &script);
        let config = instance.data().join("keyward.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("profile = \"softhsm\"", &format!("profile = \"{}\"", path.display())))
            .unwrap();
        instance.start();
        Faulty { instance, draft, script }
    }

    /// From now on the module does this.
    pub(crate) fn script(&self, text: &str) {
        fs::write(&self.script, "").unwrap();
        // What an earlier script had counted is forgotten.
        for file in fs::read_dir(self.script.parent().unwrap()).unwrap().map(|entry| entry.unwrap()) {
            if file.file_name().to_str().unwrap().starts_with("script.line") {
                fs::remove_file(file.path()).unwrap();
            }
        }
        fs::write(&self.script, text).unwrap();
    }

    /// Calls under lines of the script that say `log`.
    fn calls(&self) -> usize {
        fs::read_to_string(self.script.with_extension("calls")).unwrap_or_default().lines().count()
    }

    pub(crate) async fn node(&self) -> Connection {
        self.instance.connect("node-1").await
    }

    /// A license to be signed.
    pub(crate) fn request(&self) -> v1::SignDocumentRequest {
        self.draft.request("clusters/demo")
    }

    pub(crate) async fn sign(&self, node: &Connection) -> Result<String, Error> {
        node.licensing().sign_document(self.request()).await.map(|signed| signed.into_inner().document).map_err(failed)
    }

    /// Signs until it works again.
    async fn signs_again(&self, node: &Connection, within: Duration) {
        let begun = Instant::now();
        loop {
            match self.sign(node).await {
                Ok(_) => return,
                Err(fault) if begun.elapsed() > within => panic!("not again within {within:?}: {fault:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Outcomes of signing documents, in order.
    pub(crate) fn outcomes(log: &[Value]) -> Vec<Value> {
        let is_document = |event: &&Value| {
            let intent = usize::try_from(event["intent"].as_u64().unwrap()).unwrap();
            log[intent]["event"]["act"]["kind"] == "use-license"
        };
        events(log, "outcome").into_iter().filter(is_document).map(|event| event["result"].clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_does_not_verify_is_not_released_and_the_token_is_quarantined_across_restarts() {
    let mut faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    faulty.script("C_Sign 1 corrupt");
    assert_eq!(faulty.sign(&node).await.unwrap_err().reason(), Reason::TokenMismatch);
    // The module signs well again, and is not asked.
    for _ in 0..3 {
        let fault = faulty.sign(&node).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::TokenMismatch);
        assert!(fault.next_step().unwrap().contains("keyward token release main"), "{fault:?}");
    }
    assert_eq!(faulty.instance.stop(), Some(0));
    faulty.instance.start_waiting();
    let why = faulty.instance.printed().iter().find(|line| line.starts_with("serving no nodes yet")).unwrap();
    assert!(why.contains("quarantined"), "{why}");
    let said = faulty.instance.cli(&["token", "release", "main"]).good();
    assert!(said.contains("as you are an operator"), "{said}");
    faulty.instance.wait_for_line("ready");
    faulty.sign(&faulty.node().await).await.unwrap();

    let log = faulty.instance.log();
    let outcomes = Faulty::outcomes(&log);
    let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome["is"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["done", "unknown", "refused", "refused", "refused", "done"], "{outcomes:?}");
    let states: Vec<_> = events(&log, "token-state").iter().map(|event| event["state"].clone()).collect();
    let held = states.iter().filter(|state| *state == "quarantined" || *state == "released").count();
    assert_eq!(held, 2, "quarantined once, released once: {states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_durable_though_the_store_was_away_when_it_was_imposed() {
    let mut faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    // It fails, so that it is tried out; and it signs wrongly as soon as nothing can be recorded.
    faulty.script("C_SignInit always return 0xe0");
    assert!(faulty.sign(&node).await.is_err());
    let mut holder = Holder::new(&faulty.instance);
    faulty.script("C_Sign always corrupt");
    let said = || fs::read_to_string(faulty.instance.path("serve.log")).unwrap();
    eventually("it cannot be recorded", || said().contains("the standing of a token cannot be recorded"));
    for command in ["release", "unlatch"] {
        faulty.instance.cli(&["token", command, "main"]).refused(74, "STORE_UNAVAILABLE");
    }
    holder.end();
    let held = || faulty.instance.json(&["token", "status", "main"])[0]["quarantined"].as_str().map(str::to_owned);
    eventually("it is recorded", || held().is_some_and(|why| !why.is_empty()));
    faulty.instance.stop();
    faulty.instance.start_waiting();
    assert!(faulty.instance.printed().iter().any(|line| line.contains("quarantined")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_shows_while_the_service_is_stopping_is_durable_though_nobody_waits_for_it() {
    let mut faulty = Faulty::new();
    assert_eq!(faulty.instance.stop(), Some(0));
    let profile = faulty.instance.path("faulty.toml");
    let slow = fs::read_to_string(&profile).unwrap().replace("call_ms_max = 1000", "call_ms_max = 8000");
    fs::write(&profile, slow).unwrap();
    faulty.instance.start();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    let id = faulty.instance.json(&["key", "get", "clusters/demo/keys/slc-1"])["id"].as_str().unwrap().to_owned();
    // The next host finds no other key by this id than the audit key, and takes its time to see what that is.
    let audit = faulty.instance.json(&["key", "get", "keys/audit"])["id"].as_str().unwrap().to_owned();
    faulty.script(&format!("C_FindObjectsInit always swap {id} {audit}\nC_GetAttributeValue 1 delay 4000"));
    kill_host(&faulty.instance, "main");
    let request = faulty.request();
    let caller = tokio::spawn(async move { node.licensing().sign_document(request).await.map(drop) });
    eventually("the device is asked", || faulty.instance.path("script.line1.0").exists());
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(faulty.instance.stop(), Some(0));
    // The next run finds nothing of it by itself.
    faulty.script("");
    faulty.instance.start_waiting();
    let main = replica(&faulty.instance, "main");
    assert!(main["quarantined"].as_str().unwrap().contains("another public half"), "{main}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_refused_long_after_the_start_is_latched_for_the_next_start_too() {
    let mut faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    // The login is lost, and the token refuses the PIN at the one new try.
    faulty.script("C_Login 9 return 0xa0\nC_SignInit 1 logout");
    assert!(faulty.sign(&node).await.is_err());
    let end = Instant::now() + Duration::from_secs(10);
    while faulty.sign(&node).await.is_ok() {
        assert!(Instant::now() < end, "the login was never lost");
    }
    let fault = faulty.sign(&node).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::TokenWaiting, "{fault:?}");
    assert!(fault.next_step().unwrap().contains("keyward token unlatch main"), "{fault:?}");
    // Neither a restart nor a person's wish tries it again before the latch is cleared.
    faulty.instance.stop();
    faulty.script("");
    faulty.instance.start_waiting();
    faulty.instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    faulty.instance.cli(&["token", "unlatch", "main"]).good();
    faulty.instance.cli(&["token", "login", "main"]).good();
    faulty.instance.wait_for_line("ready");
    faulty.sign(&faulty.node().await).await.unwrap();
    faulty.instance.log();
}

/// A store that is away when a login ends has not lost the login.
#[test]
fn a_login_whose_end_cannot_be_recorded_at_once_latches_nothing() {
    let mut faulty = Faulty::new();
    assert_eq!(faulty.instance.stop(), Some(0));
    faulty.script("C_Login 1 delay 1500");
    faulty.instance.launch(Command::new(KEYWARD).arg("serve").arg(faulty.instance.data()));
    eventually("the login is under way", || faulty.instance.path("script.line0.0").exists());
    let mut holder = Holder::new(&faulty.instance);
    // Longer than the login, and than SQLite waits for a lock.
    std::thread::sleep(Duration::from_secs(8));
    holder.end();
    faulty.instance.wait_for_line("ready");
    let main = replica(&faulty.instance, "main");
    assert!(main["latched"] == "" && main["health"] == "healthy", "{main}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_login_that_is_made_anew_is_announced_and_its_end_recorded() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.script("C_SignInit 1 logout");
    faulty.sign(&node).await.unwrap();
    let host = faulty.instance.json(&["token", "status", "main"])[0]["host_pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &host]).status().unwrap().success());
    faulty.signs_again(&node, Duration::from_secs(20)).await;
    let log = faulty.instance.log();
    let states: Vec<_> = events(&log, "token-state").iter().map(|event| event["state"].clone()).collect();
    let (begun, done) =
        states.as_chunks::<2>().0.iter().map(|[begun, done]| (begun, done)).unzip::<_, _, Vec<_>, Vec<_>>();
    assert!(begun.iter().all(|state| *state == "login-begun") && done.iter().all(|state| *state == "logged-in"));
    assert!(states.len() % 2 == 0 && states.len() >= 8, "init, two starts, a lost login and a killed host: {states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_while_it_logs_in_anew_tries_that_pin_no_second_time() {
    let mut faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    // The login is lost, and the token does not say in time that it refuses the PIN.
    faulty.script("C_Login always log\nC_Login always hang\nC_SignInit 1 logout");
    let lost = tokio::spawn({
        let (request, node) = (faulty.request(), node.clone());
        async move { node.licensing().sign_document(request).await.map(|_| ()) }
    });
    eventually("the new login begins", || faulty.calls() == 1);
    faulty.instance.kill();
    assert!(lost.await.unwrap().is_err());
    faulty.script("C_Login always log");
    faulty.instance.start_waiting();
    let status = faulty.instance.json(&["token", "status", "main"]);
    assert!(status[0]["latched"].as_str().unwrap().contains("a login was begun"), "{status}");
    faulty.instance.cli(&["token", "login", "main"]).refused(69, "PIN_LATCHED");
    assert_eq!(faulty.calls(), 1);
    faulty.instance.cli(&["token", "unlatch", "main"]).good();
    faulty.instance.cli(&["token", "login", "main"]).good();
    faulty.instance.wait_for_line("ready");
    faulty.sign(&faulty.node().await).await.unwrap();
    assert_eq!(faulty.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_crashes_takes_one_call_with_it_and_not_the_service() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    let pid = faulty.instance.pid();
    faulty.script("C_Sign 1 crash");
    let _ = faulty.sign(&node).await;
    faulty.signs_again(&node, Duration::from_secs(5)).await;
    assert_eq!(faulty.instance.pid(), pid);
    faulty.instance.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_host_that_is_killed_is_started_again() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    let host = faulty.instance.json(&["token", "status", "main"])[0]["host_pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &host]).status().unwrap().success());
    faulty.signs_again(&node, Duration::from_secs(5)).await;
    faulty.instance.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_token_costs_its_caller_the_deadline_and_no_more() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    faulty.script("C_Sign 1 hang");
    let mut request = tonic::Request::new(faulty.draft.request("clusters/demo"));
    request.set_timeout(Duration::from_millis(800));
    let begun = Instant::now();
    assert!(node.licensing().sign_document(request).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    faulty.signs_again(&node, Duration::from_secs(20)).await;
    let log = faulty.instance.log();
    assert!(Faulty::outcomes(&log).iter().any(|outcome| outcome["is"] == "unknown"), "what the token did is not known");
}

#[test]
fn a_key_whose_making_crashes_is_recorded_as_unknown_and_named() {
    let faulty = Faulty::new();
    faulty.script("C_GenerateKeyPair 1 crash");
    let request = faulty.instance.path("second.xml");
    let args = ["cluster", "create", "second", "--url", "https://second.example.test", "--offline", "--request"];
    let ran = faulty.instance.cli(&[&args[..], &[request.to_str().unwrap()]].concat());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    faulty.instance.cli(&["cluster", "get", "second"]).refused(65, "NOT_FOUND");
    let log = faulty.instance.log();
    let outcome = events(&log, "outcome").pop().unwrap();
    assert_eq!(outcome["result"]["is"], "unknown", "{outcome}");
    let intent = &log[usize::try_from(outcome["intent"].as_u64().unwrap()).unwrap()]["event"]["act"];
    assert_eq!((intent["do"].as_str().unwrap(), intent["id"].as_str().unwrap().len()), ("generate-key", 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_token_no_longer_shows_is_missing_and_serves_again_by_itself_when_it_does() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    faulty.sign(&node).await.unwrap();
    let key = faulty.instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    // The session is lost, and the token shows no key of this id any more: as a wrong partition does.
    let id = key["id"].as_str().unwrap();
    faulty.script(&format!("C_SignInit 1 close-session\nC_FindObjectsInit always swap {id} {}", "0".repeat(40)));
    let state = || faulty.instance.json(&["key", "get", "clusters/demo/keys/slc-1"])["state"].clone();
    let begun = Instant::now();
    while state() != "missing" {
        let _ = faulty.sign(&node).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(faulty.sign(&node).await.unwrap_err().reason(), Reason::KeyMissing);
    let kept = faulty.instance.json(&["key", "get", "clusters/demo/keys/slc-1"]);
    assert_eq!((&kept["id"], &kept["public_key"]), (&key["id"], &key["public_key"]), "the record is kept");
    faulty.script("");
    faulty.signs_again(&node, Duration::from_secs(20)).await;
    assert_eq!(state(), "active");
    let log = faulty.instance.log();
    let steps: Vec<_> = events(&log, "key-state").iter().map(|e| (e["from"].clone(), e["to"].clone())).collect();
    assert_eq!(steps, [("active".into(), "missing".into()), ("missing".into(), "active".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lost_its_probe_key_alone_serves_and_gets_another_one() {
    let mut faulty = Faulty::new();
    let key = |name: &str| faulty.instance.json(&["key", "get", name]);
    let id = key("keys/probe-main")["id"].as_str().unwrap().to_owned();
    assert_eq!(faulty.instance.stop(), Some(0));
    faulty.script(&format!("C_FindObjectsInit always swap {id} {}", "0".repeat(40)));
    faulty.instance.start();
    let found = || faulty.instance.cli(&["key", "get", "keys/probe-main-2"]).code == Some(0);
    eventually("another one is made", found);
    let states = ["keys/probe-main", "keys/probe-main-2"]
        .map(|name| faulty.instance.json(&["key", "get", name])["state"].clone());
    assert_eq!(states, ["missing", "active"]);
    // A fault of the device is found with it: no replica comes back from a trial by another way.
    faulty.script(&format!("C_FindObjectsInit always swap {id} {}\nC_Sign 1 corrupt", "0".repeat(40)));
    let node = faulty.node().await;
    assert_eq!(faulty.sign(&node).await.unwrap_err().reason(), Reason::TokenMismatch);
    faulty.instance.cli(&["token", "release", "main"]).good();
    faulty.signs_again(&node, Duration::from_secs(20)).await;
    eventually("it serves", || faulty.instance.json(&["token", "status", "main"])[0]["health"] == "healthy");
    faulty.instance.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_key_that_is_lost_while_the_service_runs_keeps_no_key_of_custody_from_being_used() {
    let faulty = Faulty::new();
    let node = faulty.node().await;
    let key = |name: &str| faulty.instance.json(&["key", "get", name]);
    let id = key("keys/probe-main")["id"].as_str().unwrap().to_owned();
    // Its handle is forgotten with the session, and what does not decrypt is reason to try the token out.
    let gone = format!("C_FindObjectsInit always swap {id} {}", "0".repeat(40));
    faulty.script(&format!("{gone}\nC_SignInit 1 close-session\nC_Decrypt 1 return 0x80000001"));
    faulty.sign(&node).await.unwrap();
    let (url, request) = ("https://two.example.test", faulty.instance.path("two"));
    let args = ["cluster", "create", "two", "--url", url, "--offline", "--request", request.to_str().unwrap()];
    faulty.instance.cli(&args).refused(69, "TOKEN_REFUSED");
    eventually("it is known to be missing", || key("keys/probe-main")["state"] == "missing");
    faulty.sign(&node).await.unwrap();
    let made = || faulty.instance.cli(&["key", "get", "keys/probe-main-2"]).code == Some(0);
    eventually("another one is made", made);
    // At no time was it said that the token cannot be used.
    let said = fs::read_to_string(faulty.instance.path("serve.log")).unwrap();
    assert!(!said.contains("cannot be used now"), "{said}");
    assert_eq!(faulty.instance.json(&["token", "status", "main"])[0]["health"], "healthy");
    faulty.instance.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn licenses_that_come_later_are_signed_before_work_that_can_wait() {
    let mut faulty = Faulty::new();
    assert_eq!(faulty.instance.stop(), Some(0));
    faulty.instance.reconfigure("sessions = 2", "sessions = 1");
    faulty.instance.start();
    let invitation = faulty.instance.path("node-2.join.toml");
    let invited = ["node", "invite", "node-2", "--cluster", "demo", "--out", invitation.to_str().unwrap()];
    faulty.instance.cli(&invited).good();
    let node = faulty.node().await;
    faulty.script("C_Sign always delay 200");
    let (over, signed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (over, signed) = (Arc::clone(&over), Arc::clone(&signed));
            let (node, draft) = (node.clone(), faulty.draft.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // A certificate for a new node is bulk work.
    let out = faulty.instance.path("node-2");
    let join = std::thread::spawn(move || {
        keyward(&["node", "join", invitation.to_str().unwrap(), "--out", out.to_str().unwrap()]).good()
    });
    let is_join = |act: &Value| act["do"] == "sign-tls-certificate" && act["subject"].to_string().contains("node-2");
    eventually("the certificate waits for its signature", || {
        let last = ["audit", "list", "--kind", "intent", "--newest-first", "--limit", "20"];
        let listed = faulty.instance.cli(&last).good();
        listed.lines().any(|line| line.contains("sign-tls-certificate") && line.contains("node-2"))
    });
    let before = signed.load(Ordering::Relaxed);
    eventually("licenses overtake it", || signed.load(Ordering::Relaxed) >= before + 8);
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    join.join().unwrap();
    faulty.script("");
    let log = faulty.instance.log();
    let asked = log.iter().position(|record| is_join(&record["event"]["act"])).unwrap();
    let done = log.iter().position(|record| record["event"]["intent"] == asked).unwrap();
    let overtook = log[asked..done].iter().filter(|record| {
        let intent = record["event"]["intent"].as_u64().and_then(|intent| usize::try_from(intent).ok());
        intent.is_some_and(|intent| intent > asked && log[intent]["event"]["act"]["kind"] == "use-license")
    });
    assert!(overtook.count() >= 4, "licenses that were asked for later were signed first");
}
