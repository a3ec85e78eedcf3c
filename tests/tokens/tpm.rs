//! A TPM that answers strangely, in the service.

use std::fs;

use keyward::error::Reason;
use serde_json::Value;

use super::{becomes, on_tpm, sign, signs_again};
use crate::kit::{Instance, events};
use crate::token_tpm::{CHANGES, change_signatures};

/// How acts that sign documents ended, one after the other.
fn results(instance: &Instance) -> Vec<Value> {
    let log = instance.closed_log();
    let signed = |record: &Value| record["event"]["act"]["do"] == "sign-document";
    let begun: Vec<&Value> = log.iter().filter(|record| signed(record)).map(|record| &record["seq"]).collect();
    let outcomes = events(&log, "outcome").into_iter();
    outcomes.filter(|event| begun.contains(&&event["intent"])).map(|event| event["result"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_signs_wrongly_is_quarantined_until_a_person_releases_it_and_a_probe_succeeds() {
    let (instance, mut tpm, draft) = on_tpm();
    let says = tpm.sign_as_said();
    let node = instance.connect("node-1").await;
    signs_again(&node, &draft).await;
    for strange in ["wrong", "pss", "short"] {
        fs::write(&says, strange).unwrap();
        let fault = sign(&node, &draft).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::TokenMismatch, "{strange}: {fault:?}");
        // Released too early, it shows that again before anybody else is served.
        becomes(&instance, "main", "quarantined");
        instance.cli(&["token", "release", "main"]).good();
        becomes(&instance, "main", "quarantined");
        fs::write(&says, "").unwrap();
        assert_eq!(sign(&node, &draft).await.unwrap_err().reason(), Reason::TokenMismatch);
        instance.cli(&["token", "release", "main"]).good();
        becomes(&instance, "main", "healthy");
        sign(&node, &draft).await.unwrap();
    }
    let results = results(&instance);
    assert_eq!(results.iter().filter(|result| result["is"] == "unknown").count(), 3, "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_whose_answers_are_changed_on_their_way_serves_by_itself_when_they_come_as_it_gave_them() {
    let (mut instance, _tpm, draft) = on_tpm();
    assert_eq!(instance.stop(), Some(0));
    let change = change_signatures(instance.directory.path());
    instance.start();
    let node = instance.connect("node-1").await;
    for (what, made, _) in CHANGES {
        *change.lock().unwrap() = Some(made);
        let fault = sign(&node, &draft).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::TokenUnknown, "{what}: {fault:?}");
        *change.lock().unwrap() = None;
        becomes(&instance, "main", "healthy");
        sign(&node, &draft).await.unwrap();
    }
    let results = results(&instance);
    let (unknown, done): (Vec<_>, Vec<_>) = results.iter().partition(|result| result["is"] == "unknown");
    assert_eq!((unknown.len(), done.len()), (CHANGES.len(), CHANGES.len()), "{results:?}");
    for (result, (what, _, words)) in unknown.iter().zip(CHANGES) {
        assert!(result["message"].as_str().unwrap().contains(words), "{what}: {result}");
    }
}
