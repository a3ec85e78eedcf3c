//! Callers that have documents signed, one after the other, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Draft, Instance, events};

/// Callers at work.
pub(crate) struct Load {
    enough: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts callers as node `node-1`. What they ask for differs by `round`, so that no two signatures are alike.
    pub(crate) async fn start(instance: &Instance, draft: &Draft, round: usize, callers: usize) -> Self {
        let (enough, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for caller in 0..callers {
            let (node, mut draft) = (instance.connect("node-1").await, draft.clone());
            let (enough, received) = (Arc::clone(&enough), Arc::clone(&received));
            tasks.push(tokio::spawn(async move {
                let mut answered = Vec::new();
                for number in 0.. {
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    draft.user = format!("user-{round}-{caller}-{number}@example.test");
                    match node.licensing().sign_document(draft.request("clusters/demo")).await {
                        Ok(signed) => {
                            answered.push(signature(&signed.into_inner().document));
                            received.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                answered
            }));
        }
        Load { enough, received, callers: tasks }
    }

    /// How many answers they have received so far.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Tells them to stop; gives every signature that one of them received.
    pub(crate) async fn end(self) -> Vec<String> {
        self.enough.store(true, Ordering::Relaxed);
        let mut answered = Vec::new();
        for caller in self.callers {
            answered.extend(caller.await.unwrap());
        }
        answered
    }
}

/// The signature of a signed document, in base64 as records have it.
pub(crate) fn signature(document: &str) -> String {
    let at = document.rfind("size=\"2048\">").unwrap() + 12;
    document[at..at + document[at..].find('<').unwrap()].to_owned()
}

/// Requires that each of these signatures is an outcome in the log.
#[track_caller]
pub(crate) fn all_recorded(log: &[Value], answered: &[String]) {
    let done: std::collections::HashSet<&str> =
        events(log, "outcome").iter().filter_map(|event| event["result"]["result"].as_str()).collect();
    for signature in answered {
        assert!(done.contains(signature.as_str()), "a released signature is not in the log");
    }
}
