//! What custody makes of a token that fails: what the caller gets, what the log says, and what is never tried again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::error::{Error, Reason};
use keyward::grpc::client::{Connection, failed};
use keyward::grpc::v1;
use serde_json::Value;

use crate::kit::token::faulty::faulty_profile;
use crate::kit::{Draft, Instance, events};

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
