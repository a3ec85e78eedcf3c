//! What custody does beside requests: it tries its tokens out, finds out which are back, and looks for missing keys.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::audit::record::Event;
use crate::caller::{Caller, CallerNote};
use crate::custody::{Custody, Making, Slot, Standing};
use crate::error::{Reason, Result};
use crate::key::{KeyRole, Mode};
use crate::policy::{self, Asked, Operation};
use crate::store::Batch;
use crate::token::probe::heartbeat;
use crate::token::replica::Health;
use crate::token::{Failure, Padding, Token};

/// How often failed replicas are tried and missing keys looked for: with a device's own waits of at most one second, it
/// serves within two seconds of its return.
const ROUND: Duration = Duration::from_millis(500);
/// How long a replica may do nothing before it is tried out.
const IDLE: Duration = Duration::from_secs(15);
/// Time for a probe key to be made.
const MAKE: Duration = Duration::from_secs(60);
/// How long to leave a token alone in which no probe key could be made.
const AGAIN: Duration = Duration::from_secs(60);

/// Resource name of the key that a token is tried out with.
#[must_use]
pub(super) fn probe_key(token: &str) -> String {
    format!("keys/probe-{token}")
}

impl Custody {
    /// Looks after the tokens until this is dropped. `caller` is who runs the service.
    ///
    /// Failed replicas are tried out with a key of role `probe`, and those that serve when they have done nothing for
    /// a while. These uses have one record a run.
    pub async fn tend(self: Arc<Self>, caller: Caller) {
        tokio::join!(self.look_after(caller), self.heed());
    }

    /// Heeds, for ever, the quarantines that other instances on the same store have imposed, and those that people have
    /// ended there.
    async fn heed(&self) {
        loop {
            for slot in self.tokens.values() {
                for member in &slot.members {
                    // What cannot be read is told by whoever needs it.
                    if let Ok((standing, _)) = Standing::of(self.store.as_ref(), &member.standing()).await {
                        slot.heed(member, standing.quarantined.as_deref());
                    }
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Looks after each device on its own, and after each token's keys: what one of them does not answer keeps nothing
    /// else waiting. Whoever drops this ends it all.
    async fn look_after(self: &Arc<Self>, caller: Caller) {
        while let Err(fault) = self.record_tending().await {
            tracing::warn!(?fault, "tokens are not tried out while that cannot be recorded");
            tokio::time::sleep(ROUND).await;
        }
        let mut cares = JoinSet::new();
        for slot in self.tokens.values() {
            for member in &slot.members {
                cares.spawn(Arc::clone(self).try_out(Arc::clone(slot), member.name().to_owned()));
            }
            cares.spawn(Arc::clone(self).keep_a_probe_key(Arc::clone(slot), caller.clone()));
            cares.spawn(Arc::clone(self).keep_looking_for_keys(Arc::clone(slot)));
        }
        while cares.join_next().await.is_some() {}
    }

    /// Records, once in a run, that the tokens' probe keys are used without a record each time.
    ///
    /// # Errors
    /// Those of the store.
    async fn record_tending(&self) -> Result<()> {
        let keys = self.tokens.keys().map(|token| probe_key(token)).collect();
        let event = Event::Maintenance { caller: CallerNote::service(), purpose: "health".to_owned(), keys };
        self.store.commit(Batch::event(event)).await.map(|_| ())
    }

    /// Has a key of role `probe` made in each token that has none and serves; in all of them at once.
    pub async fn make_probe_keys(self: Arc<Self>, caller: Caller) {
        let mut makers = JoinSet::new();
        for slot in self.tokens.values() {
            let (custody, slot, caller) = (Arc::clone(&self), Arc::clone(slot), caller.clone());
            makers.spawn(async move { custody.make_probe_key(&caller, &slot).await });
        }
        while makers.join_next().await.is_some() {}
    }

    /// Has a probe key made, for ever until there is one.
    async fn keep_a_probe_key(self: Arc<Self>, slot: Arc<Slot>, caller: Caller) {
        let mut tried: Option<Instant> = None;
        while slot.probe_key().is_none() {
            if tried.is_none_or(|tried| tried.elapsed() > AGAIN) {
                tried = Some(Instant::now());
                self.make_probe_key(&caller, &slot).await;
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Looks for the keys that are missing, for ever, and for all keys of the token when a replica came back.
    async fn keep_looking_for_keys(self: Arc<Self>, slot: Arc<Slot>) {
        let healthy = || -> Vec<_> {
            let statuses = slot.replicas.statuses().into_iter();
            statuses.map(|status| (status.health == Health::Healthy).then_some(status.since)).collect()
        };
        let mut before = healthy();
        loop {
            let now = healthy();
            if now.iter().zip(&before).any(|(now, before)| now.is_some() && now != before) {
                self.look_for_keys(&slot).await;
            }
            before = now;
            self.look_for_missing(&slot).await;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Finds a token's probe key among the records, or has one made if its first replica serves.
    async fn make_probe_key(self: &Arc<Self>, caller: &Caller, slot: &Slot) {
        let _one = slot.making_probe.lock().await;
        if slot.probe_key().is_some() {
            return;
        }
        let name = probe_key(&slot.name);
        let found = match self.key(&name).await {
            Ok(key) => Ok(key.record.in_token()),
            Err(fault) if fault.reason() == Reason::NotFound => {
                if !matches!(slot.replicas.status().first(), Some((_, Health::Healthy))) {
                    return;
                }
                self.new_probe_key(caller, slot, name).await
            }
            Err(fault) => Err(fault),
        };
        match found {
            Ok(key) => *slot.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key)),
            Err(fault) => tracing::warn!(?fault, "token {} has no probe key", slot.name),
        }
    }

    async fn new_probe_key(
        self: &Arc<Self>,
        caller: &Caller,
        slot: &Slot,
        name: String,
    ) -> Result<crate::token::KeyRef> {
        let asked = Asked { operation: Operation::ProbeToken, cluster: None, signs: None };
        let token = slot.name.clone();
        let making = Making { name, role: KeyRole::Probe, mode: Mode::Two, token, beside: Vec::new() };
        let permit = policy::permit(caller, &asked)?;
        Ok(self.generate(permit, making, Instant::now() + MAKE).await?.answer().in_token())
    }

    /// Tries one replica out, for ever.
    async fn try_out(self: Arc<Self>, slot: Arc<Slot>, replica: String) {
        loop {
            let (key, padding) = (slot.probe_key(), Padding::Oaep(slot.oaep));
            let act = move |token: &dyn Token| -> Result<(), Failure> {
                match &key {
                    Some(key) => heartbeat(token, key, padding),
                    None => token.describe().map(|_| ()),
                }
            };
            slot.replicas.probe(&replica, IDLE, act).await;
            slot.keep_changes(self.store.as_ref()).await;
            tokio::time::sleep(ROUND).await;
        }
    }
}
