//! What custody does when an instance starts and stops.

use std::sync::Arc;

use crate::audit::chain::ChainHash;
use crate::audit::record::Event;
use crate::custody::{Custody, Failed, Intent, Slot, proof};
use crate::error::{Error, Reason, Result};
use crate::policy;
use crate::store::Batch;

/// A run of an instance: what the log says of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Version of the program.
    pub version: String,
    /// The configuration, in words that name no secret.
    pub settings: Vec<String>,
    /// SHA-256 of the configuration file, hexadecimal.
    pub configuration_sha256: String,
}

impl Custody {
    /// Opens the log for this run, records what is in force in it, and closes what an earlier run left open. Gives the
    /// number of intents closed.
    ///
    /// # Errors
    /// Those of the store; the instance must not serve then.
    pub async fn start(self: &Arc<Self>, run: Run) -> Result<usize> {
        let words = |slot: &Slot| match slot.description() {
            Some(d) => {
                format!("{} serial {} firmware {} module sha256:{}", d.label, d.serial, d.firmware, d.module_sha256)
            }
            None => "not open".to_owned(),
        };
        let tokens = self.tokens.iter().map(|(name, slot)| format!("{name}: {}", words(slot))).collect();
        let policy = policy::words();
        let lines: String = policy.iter().map(|rule| format!("{rule}\n")).collect();
        let events = vec![
            Event::LogOpened { version: run.version, tokens },
            Event::InForce {
                policy,
                policy_sha256: ChainHash::of(lines.as_bytes()).to_string(),
                settings: run.settings,
                configuration_sha256: run.configuration_sha256,
            },
        ];
        self.store.commit(Batch { writes: Vec::new(), events }).await?;
        self.tell_of_others().await?;
        let open = self.store.open_intents().await?;
        for seq in &open {
            let why = Error::new(Reason::TokenUnknown, "the service ended between this intent and its outcome");
            // The outcome is the answer here: an intent that an earlier run left open always ends as a failure.
            let why = Failed::from(why).afterwards();
            match proof::close::<()>(&self.store, Intent::left_open(*seq), Err(why)).await {
                Err(fault) if fault.reason() != Reason::TokenUnknown => return Err(fault),
                _ => {}
            }
        }
        self.read_keys().await?;
        Ok(open.len())
    }

    /// Closes what was opened for a run that does not begin.
    pub async fn abandon(self: &Arc<Self>) {
        self.close_tokens().await;
        self.store.close().await;
    }

    async fn close_tokens(self: &Arc<Self>) {
        let custody = Arc::clone(self);
        // Closing a lane waits for its threads.
        let close = move || custody.tokens.values().for_each(|slot| slot.replicas.close());
        if tokio::task::spawn_blocking(close).await.is_err() {
            tracing::error!("a token did not close cleanly");
        }
    }

    /// Ends this run and closes the store.
    pub async fn stop(self: &Arc<Self>) {
        self.end().await;
        self.store.close().await;
    }

    /// The same of a run that has recorded what it could not end: what was signed last does not go on in it.
    pub async fn stop_unsigned(self: &Arc<Self>) {
        if let Err(fault) = self.close_log().await {
            tracing::error!(?fault, "the end of this run cannot be recorded");
        }
        self.close_tokens().await;
        self.store.close().await;
    }

    /// Ends this run: no more acts, the log closed and signed, tokens closed. The store can still be read.
    pub async fn end(self: &Arc<Self>) {
        if let Err(fault) = self.close_log().await {
            tracing::error!(?fault, "the end of this run cannot be recorded");
        } else if self.trust().is_ok()
            && let Err(fault) = self.checkpoint().await
        {
            tracing::error!(?fault, "the end of this run cannot be signed");
        }
        self.close_tokens().await;
    }

    /// Ends all acts and records that the run has ended.
    async fn close_log(self: &Arc<Self>) -> Result<()> {
        // Waits for every act under way, with or without its caller; none begins after this.
        *self.stopping.write().await = true;
        self.refusals.finish().await;
        for slot in self.tokens.values() {
            slot.replicas.settle().await;
            slot.keep_all(self.store.as_ref()).await;
        }
        self.store.commit(Batch::event(Event::LogClosed {})).await.map(drop)
    }
}
