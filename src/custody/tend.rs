//! What custody does beside requests: it tries its tokens out, finds out which are back, and looks for missing keys.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::audit::record::Event;
use crate::caller::{Caller, CallerNote};
use crate::custody::missing::LOOK;
use crate::custody::{Custody, KeyRecord, Making, Slot, Standing};
use crate::error::{Reason, Result};
use crate::key::{KeyRole, KeyState, Mode};
use crate::policy::{self, Asked, Operation};
use crate::store::Batch;
use crate::token::lane::{LaneError, Priority};
use crate::token::probe::heartbeat;
use crate::token::replica::Health;
use crate::token::{Class, Failure, Padding, Token};

/// How often failed replicas are tried and missing keys looked for: with a device's own waits of at most one second, it
/// serves within two seconds of its return.
const ROUND: Duration = Duration::from_millis(500);
/// How long a replica may do nothing before it is tried out.
const IDLE: Duration = Duration::from_secs(15);
/// Time for a probe key to be made.
const MAKE: Duration = Duration::from_secs(60);
/// Between two tries to make a probe key in one token.
const AGAIN: Duration = Duration::from_secs(60);

/// Resource name of the key that a token is tried out with: the first one, or that which replaces it.
fn probe_key(token: &str, number: usize) -> String {
    if number == 1 { format!("keys/probe-{token}") } else { format!("keys/probe-{token}-{number}") }
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
        let keys: Vec<_> = self.tokens.keys().map(|token| probe_key(token, 1)).collect();
        while let Err(fault) = self.record_tending(keys.clone()).await {
            tracing::warn!(?fault, "tokens are not tried out while that cannot be recorded");
            tokio::time::sleep(ROUND).await;
        }
        let mut cares = JoinSet::new();
        for slot in self.tokens.values() {
            let lacking = Arc::new(Notify::new());
            for member in &slot.members {
                let lacking = Arc::clone(&lacking);
                cares.spawn(Arc::clone(self).try_out(Arc::clone(slot), member.name().to_owned(), lacking));
            }
            cares.spawn(Arc::clone(self).keep_a_probe_key(Arc::clone(slot), caller.clone(), lacking));
            cares.spawn(Arc::clone(self).keep_looking_for_keys(Arc::clone(slot)));
        }
        while let Some(ended) = cares.join_next().await {
            if let Err(fault) = ended {
                tracing::error!(?fault, "something of a token is looked after no more; restart the service");
            }
        }
    }

    /// Records, once in a run, that these probe keys of the tokens are used without a record each time.
    ///
    /// # Errors
    /// Those of the store.
    async fn record_tending(&self, keys: Vec<String>) -> Result<()> {
        let event = Event::Maintenance { caller: CallerNote::service(), purpose: "health".to_owned(), keys };
        self.store.commit(Batch::event(event)).await.map(|_| ())
    }

    /// Has a key of role `probe` made in each token that has none and serves; in all of them at once.
    pub async fn make_probe_keys(self: Arc<Self>, caller: Caller) {
        let mut makers = JoinSet::new();
        for slot in self.tokens.values() {
            let (custody, slot, caller) = (Arc::clone(&self), Arc::clone(slot), caller.clone());
            makers.spawn(async move { drop(custody.make_probe_key(&caller, &slot).await) });
        }
        while makers.join_next().await.is_some() {}
    }

    /// Has a probe key made if there is none, and another one if no replica shows that one any more; for ever.
    async fn keep_a_probe_key(self: Arc<Self>, slot: Arc<Slot>, caller: Caller, lacking: Arc<Notify>) {
        loop {
            let tried = Instant::now();
            let found = self.make_probe_key(&caller, &slot).await;
            if let Some((key, _)) = &found {
                loop {
                    lacking.notified().await;
                    if self.has_lost(&slot, key).await {
                        break;
                    }
                }
            }
            // One that was there before cost the token nothing.
            if found.is_none_or(|(_, made)| made) {
                tokio::time::sleep(AGAIN.saturating_sub(tried.elapsed())).await;
            }
        }
    }

    /// Whether no replica of a token that can be asked shows its probe key; then that is recorded.
    async fn has_lost(&self, slot: &Slot, key: &KeyRecord) -> bool {
        let id = key.id;
        let look = move |token: &dyn Token| token.public_key(id).map(drop);
        let why = match slot.replicas.run(Priority::Upkeep, Instant::now() + LOOK, look).await {
            Err(LaneError::Failed(failure)) if failure.class == Class::KeyMissing => failure.to_string(),
            // Others may have it that cannot be asked now: it is worth less than a replica that cannot be tried out without.
            Err(LaneError::Unseen { failure, unasked }) if failure.class == Class::KeyMissing => {
                format!("{failure}; {unasked} cannot be asked")
            }
            _ => return false,
        };
        self.miss(&key.name, &why).await;
        true
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

    /// Finds a token's probe key among the records, the first that is not missing, or has one made if the token's first
    /// replica answers. With it comes whether it was made.
    async fn make_probe_key(self: &Arc<Self>, caller: &Caller, slot: &Slot) -> Option<(KeyRecord, bool)> {
        let _one = slot.making_probe.lock().await;
        match self.some_probe_key(caller, slot).await {
            Ok(key) => {
                let held = key.as_ref().map(|(key, _)| Arc::new(key.in_token()));
                let mut probe = slot.probe.lock().unwrap_or_else(PoisonError::into_inner);
                // A lost one stays until there is another: by no other act is a replica on trial tried out.
                *probe = held.or(probe.take());
                key
            }
            Err(fault) => {
                tracing::warn!(?fault, "token {} has no probe key", slot.name);
                None
            }
        }
    }

    async fn some_probe_key(self: &Arc<Self>, caller: &Caller, slot: &Slot) -> Result<Option<(KeyRecord, bool)>> {
        let mut number = 1;
        let name = loop {
            let name = probe_key(&slot.name, number);
            match self.key(&name).await {
                // A token may have the other's name and a number.
                Ok(key) if key.record.token != slot.name || key.record.state == KeyState::Missing => number += 1,
                Ok(key) => {
                    if number > 1 {
                        self.record_tending(vec![name]).await?;
                    }
                    return Ok(Some((key.record.clone(), false)));
                }
                Err(fault) if fault.reason() == Reason::NotFound => break name,
                Err(fault) => return Err(fault),
            }
        };
        match slot.replicas.status().first() {
            Some((_, Health::Healthy)) => {}
            Some((first, Health::Failed { .. })) if number > 1 => {
                let describe = |token: &dyn Token| token.describe().map(drop);
                if slot.replicas.run_on(first, Instant::now() + LOOK, describe).await.is_err() {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        }
        let key = self.new_probe_key(caller, slot, name.clone()).await?;
        if number > 1 {
            tracing::warn!("token {} is tried out with a new key: {name}", slot.name);
            self.record_tending(vec![name]).await?;
        }
        Ok(Some((key, true)))
    }

    async fn new_probe_key(self: &Arc<Self>, caller: &Caller, slot: &Slot, name: String) -> Result<KeyRecord> {
        let asked = Asked { operation: Operation::ProbeToken, cluster: None, signs: None };
        let token = slot.name.clone();
        let making = Making { name, role: KeyRole::Probe, mode: Mode::Two, token, beside: Vec::new() };
        let permit = policy::permit(caller, &asked)?;
        Ok(self.generate(permit, making, Instant::now() + MAKE).await?.answer())
    }

    /// Tries one replica out, for ever.
    async fn try_out(self: Arc<Self>, slot: Arc<Slot>, replica: String, lacking: Arc<Notify>) {
        loop {
            let (key, padding) = (slot.probe_key(), Padding::Oaep(slot.oaep));
            let act = move |token: &dyn Token| -> Result<(), Failure> {
                match &key {
                    Some(key) => heartbeat(token, key, padding),
                    None => token.describe().map(|_| ()),
                }
            };
            if slot.replicas.probe(&replica, IDLE, act).await {
                lacking.notify_one();
            }
            slot.keep_changes(self.store.as_ref()).await;
            tokio::time::sleep(ROUND).await;
        }
    }
}
