//! Keys that a token does not show: their records are kept, and they serve again when the token shows them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use crate::audit::record::{Event, brief};
use crate::caller::CallerNote;
use crate::custody::{Custody, Held, KeyRecord, Slot};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, KeyState};
use crate::store::{Batch, Kind, Write};
use crate::token::lane::{LaneError, Priority};
use crate::token::{Class, Failure, Outcome, Token};

/// Time for one look for a key.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// Longest wait for all of them at the start.
const LOOKS: Duration = Duration::from_secs(5);
/// Keys that are read from the store at a time.
const PAGE: u32 = 100;

impl Custody {
    /// Reads which keys there are: which tokens are needed, and which keys were missing when the last run ended. A row
    /// that was altered is refused to whoever asks for it; it does not take the other keys out of service.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn read_keys(&self) -> Result<()> {
        let (keys, altered) = self.all_keys().await?;
        if let Some(fault) = altered.first() {
            tracing::error!(?fault, keys = altered.len(), "not all keys can be read; every token counts as needed");
            self.tokens.values().for_each(|slot| slot.needed.store(true, Ordering::Relaxed));
        }
        for key in keys {
            if key.state == KeyState::Missing {
                self.missing().insert(key.name);
            }
            if let (true, Ok(slot)) = (key.role != KeyRole::Probe, self.slot(&key.token)) {
                slot.needed.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Every key whose row is as it was recorded, and what is wrong with the others.
    async fn all_keys(&self) -> Result<(Vec<KeyRecord>, Vec<Error>)> {
        let (mut keys, mut altered) = (Vec::new(), Vec::new());
        let mut after = String::new();
        loop {
            let names = self.store.names(Kind::Key, "", &after, PAGE).await?;
            let Some(last) = names.last() else { return Ok((keys, altered)) };
            after.clone_from(last);
            for name in names {
                match self.one::<KeyRecord>(Kind::Key, &name).await {
                    Ok(key) => keys.push(key),
                    Err(fault) if fault.reason() == Reason::ObjectAltered => altered.push(fault),
                    Err(fault) => return Err(fault),
                }
            }
        }
    }

    /// Looks for every key of the tokens that serve, in all of them at once. A token that says nothing, or has very many
    /// keys, keeps nobody waiting: looks that take longer go on until what is given back is dropped.
    pub async fn look_for_all_keys(self: &Arc<Self>) -> JoinSet<()> {
        let mut looks = JoinSet::new();
        for slot in self.tokens.values().filter(|slot| slot.serves()) {
            let (custody, slot) = (Arc::clone(self), Arc::clone(slot));
            looks.spawn(async move { custody.look_for_keys(&slot).await });
        }
        let _ = tokio::time::timeout(LOOKS, async { while looks.join_next().await.is_some() {} }).await;
        looks
    }

    /// Looks for every key of a token, as long as it serves: when it does again, all are looked for.
    pub(super) async fn look_for_keys(&self, slot: &Slot) {
        let keys = match self.all_keys().await {
            Ok((keys, _)) => keys,
            Err(fault) => return tracing::warn!(?fault, "the keys of token {} cannot be looked for", slot.name),
        };
        for key in keys.iter().filter(|key| key.token == slot.name && key.state != KeyState::Missing) {
            // Each look at a device that hangs would take as long as the first one.
            if !slot.serves() {
                return;
            }
            if let Err(LaneError::Failed(failure)) = self.look(slot, key).await
                && failure.class == Class::KeyMissing
            {
                self.miss(&key.name, &failure.to_string()).await;
            }
        }
    }

    /// Looks for the keys of a token that are missing; those that it shows again are what they were before.
    pub(super) async fn look_for_missing(&self, slot: &Slot) {
        let missing: Vec<String> = self.missing().iter().cloned().collect();
        for name in missing {
            let Ok(key) = self.key(&name).await else { continue };
            if key.record.token == slot.name && slot.serves() && self.look(slot, &key.record).await.is_ok() {
                let next = key.record.before_missing.unwrap_or(KeyState::Disabled);
                self.becomes(&key, next, "the token shows the key again").await;
            }
        }
    }

    /// Whether some replica shows the key: its public half, by its id. The private half is not used.
    async fn look(&self, slot: &Slot, key: &KeyRecord) -> Result<(), LaneError> {
        let wanted = key.in_token();
        let act = move |token: &dyn Token| match token.public_key(wanted.id)? {
            found if found == wanted.public => Ok(()),
            _ => Err(Failure {
                class: Class::Mismatch,
                outcome: Outcome::Refused,
                function: "public_key",
                code: "the key of this id has another public half".to_owned(),
            }),
        };
        let looked = slot.replicas.run(Priority::Upkeep, Instant::now() + LOOK, act).await;
        slot.keep_changes(self.store.as_ref()).await;
        looked.map(|_| ())
    }

    /// No replica shows the key: it is missing from now on. `why` is what the first of them answered, and which could not
    /// be asked; that there are such is for keys of role `probe` only.
    pub(super) async fn miss(&self, name: &str, why: &str) {
        match self.key(name).await {
            Ok(key) if key.record.state != KeyState::Missing => {
                let reason = format!("no replica of its token shows it: {why}");
                self.becomes(&key, KeyState::Missing, &reason).await;
            }
            _ => {}
        }
    }

    /// Changes a key's state to or from missing, and records it. Who was first is right; the next round sees.
    async fn becomes(&self, key: &Held, next: KeyState, reason: &str) {
        let before = key.record.state;
        if !before.may_become(next) {
            return;
        }
        let before_missing = (next == KeyState::Missing).then_some(before);
        let record = KeyRecord { state: next, before_missing, ..key.record.clone() };
        let event = Event::KeyState {
            key: record.name.clone(),
            from: before.name().to_owned(),
            to: next.name().to_owned(),
            caller: CallerNote::service(),
            reason: brief(reason),
        };
        let write = Write::new(Kind::Key, &record.name, key.version, &record);
        let done = match write {
            Ok(write) => self.store.commit(Batch { writes: vec![write], events: vec![event] }).await.map(|_| ()),
            Err(fault) => Err(fault),
        };
        match done {
            Ok(()) if next == KeyState::Missing => {
                tracing::error!("key {} is missing: {reason}", record.name);
                self.missing().insert(record.name);
            }
            Ok(()) => {
                tracing::info!("key {} is {} again: {reason}", record.name, next.name());
                self.missing().remove(&record.name);
            }
            Err(fault) if fault.reason() == Reason::StoreConflict => {}
            Err(fault) => tracing::error!(?fault, "the state of key {} cannot be recorded", record.name),
        }
    }

    fn missing(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
