//! Keys in tokens, and the only way to use them: permit, durable intent, token, verification, durable outcome.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::ParsedPublicKey;

use crate::audit::record::ActNote;
use crate::cluster::SealProfile;
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::policy::Permit;
use crate::store::{Batch, Kind, Store, Write};
use crate::token::lane::{LaneError, Priority};
use crate::token::replica::{Health, Served};
use crate::token::{Failure, Token};

mod anchor;
mod checkpoint;
mod countersign;
mod entries;
mod generate;
mod given_up;
mod missing;
mod operate;
mod others;
mod proof;
mod prove;
mod read;
mod record;
mod refusal;
mod sign;
mod slot;
mod start;
mod tend;
mod unseal;
mod vouch;

pub use anchor::LogFiles;
pub use checkpoint::{AUDIT_KEY, Ledger, Pace, audit_key_beside};
pub use entries::{Found, Query};
pub use generate::Making;
pub use given_up::{GivenUp, Loss, Taken};
pub use operate::{Hold, ReplicaStatus, TokenStatus, clear, no_token};
use proof::Failed;
pub use proof::{Intent, Recorded, Verified};
pub use read::{Page, performed};
pub use record::{KeyRecord, Standing, record_probe, standing_of};
use refusal::Refusals;
pub use sign::Signing;
pub use slot::{Device, Slot};
pub use start::Run;
pub use unseal::{StandIn, unseal};

/// The custody of this instance: its tokens behind their lanes, and its records.
pub struct Custody {
    store: Arc<dyn Store>,
    tokens: BTreeMap<String, Arc<Slot>>,
    ledger: Ledger,
    held: RwLock<HashMap<String, Arc<Held>>>,
    refusals: Arc<Refusals>,
    /// Names of keys that their tokens do not show.
    missing: Mutex<BTreeSet<String>>,
    /// Held for reading by each act under way; true once no more may begin.
    stopping: Arc<tokio::sync::RwLock<bool>>,
}

/// A key ready for use: its record, and its public half parsed once.
pub struct Held {
    /// The record.
    pub record: KeyRecord,
    version: u64,
    verifier: ParsedPublicKey,
}

impl Custody {
    /// Takes over the store, the open tokens by their names in the configuration, and what is known of the signed log.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tokens: BTreeMap<String, Slot>, ledger: Ledger) -> Self {
        let refusals = Refusals::new(Arc::clone(&store));
        Custody {
            store,
            tokens: tokens.into_iter().map(|(name, slot)| (name, Arc::new(slot))).collect(),
            ledger,
            held: RwLock::default(),
            missing: Mutex::default(),
            refusals,
            stopping: Arc::default(),
        }
    }

    /// The store, for the rooms that keep records of their own.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Why nothing can be recorded, if that is so: the last commit failed, or one is under way for longer than this.
    #[must_use]
    pub fn store_trouble(&self, patience: Duration) -> Option<Error> {
        self.store.trouble(patience)
    }

    /// Tries whether anything can be recorded. Leaves nothing behind.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn try_store(&self) -> Result<()> {
        self.store.commit(Batch::default()).await.map(drop)
    }

    fn held(&self, name: &str, version: u64) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(name).filter(|held| held.version == version).cloned()
    }

    fn hold(&self, key: Arc<Held>) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(key.record.name.clone(), key);
    }

    /// The token that new keys are made in: the first by name.
    ///
    /// # Errors
    /// `TOKEN_UNAVAILABLE` if this instance has none.
    pub fn default_token(&self) -> Result<(&str, SealProfile)> {
        let first = self.tokens.iter().next();
        first
            .map(|(name, slot)| (name.as_str(), SealProfile::oaep(slot.oaep)))
            .ok_or_else(|| Error::new(Reason::TokenUnavailable, "this instance has no token"))
    }

    /// The token of this name, that new keys are to be made in, and how content keys are sealed to them.
    ///
    /// # Errors
    /// `NOT_FOUND` if this instance has none of this name.
    pub fn token_for_keys(&self, name: &str) -> Result<(&str, SealProfile)> {
        let found = self.tokens.get(name).map(|slot| (slot.name.as_str(), SealProfile::oaep(slot.oaep)));
        found.ok_or_else(|| no_token(name, &self.tokens.keys().map(String::as_str).collect::<Vec<_>>()))
    }

    /// From the permit to the recorded outcome, as a task of its own: a caller that hangs up loses its answer and
    /// nothing else. `act` asks the token and verifies what comes back.
    async fn perform<T, F>(self: &Arc<Self>, permit: Permit, note: ActNote, act: F) -> Result<Recorded<T>>
    where
        T: Send + 'static,
        F: AsyncAct<T>,
    {
        let custody = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _guard = custody.guard().await?;
            if let Err(refusal) = proof::check_clock(custody.store.as_ref()) {
                return Err(custody.refuse(permit.caller(), permit.operation(), "clock", refusal).await);
            }
            if let Err(refusal) = custody.require_signed() {
                return Err(custody.refuse(permit.caller(), permit.operation(), "log", refusal).await);
            }
            let act_name = note.name();
            let intent = Intent::open(custody.store.as_ref(), permit, note).await?;
            faultpoint::reach("after-intent", act_name).await;
            let result = unbroken(act.run(&custody)).await;
            faultpoint::reach("before-outcome", act_name).await;
            proof::close(&custody.store, intent, result).await
        });
        task.await.map_err(|fault| Error::new(Reason::Internal, "an act broke off").detail(fault))?
    }

    /// Keeps this run from ending while an act is under way; none begins once it ends.
    async fn guard(&self) -> Result<tokio::sync::OwnedRwLockReadGuard<bool>> {
        let stopping = Arc::clone(&self.stopping).read_owned().await;
        if *stopping {
            return Err(Error::new(Reason::StoreClosed, "this instance is stopping"));
        }
        Ok(stopping)
    }

    /// The same for what is signed with the audit key for others, or in its place: only while the clock is right and the
    /// log holds.
    async fn may_act(&self) -> Result<tokio::sync::OwnedRwLockReadGuard<bool>> {
        let guard = self.guard().await?;
        proof::check_clock(self.store.as_ref())?;
        self.require_signed()?;
        Ok(guard)
    }

    /// Has a replica of a token do an act that changes nothing in it; another one if that fails.
    async fn ask<T: Send + 'static>(
        &self,
        token: &str,
        priority: Priority,
        deadline: Instant,
        call: impl Fn(&dyn Token) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<Served<T>, Failed> {
        let slot = self.slot(token)?;
        slot.barred()?;
        let asked = slot.replicas.run(priority, deadline, call).await;
        slot.keep_changes(self.store.as_ref()).await;
        asked.map_err(|fault| failed(slot, fault))
    }

    /// Has the first replica of a token do an act that changes it.
    async fn ask_first<T: Send + 'static>(
        &self,
        token: &str,
        deadline: Instant,
        call: impl FnOnce(&dyn Token) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failed> {
        let slot = self.slot(token)?;
        slot.barred()?;
        if let Some((first, Health::Waiting { why } | Health::Quarantined { why })) = slot.replicas.status().first() {
            let words = format!("{} makes the keys of its token and is out of use: {why}", slot.label(first));
            return Err(Error::new(Reason::TokenUnavailable, words).hint("see keyward token status").into());
        }
        let asked = slot.replicas.run_on(slot.first(), deadline, call).await;
        slot.keep_changes(self.store.as_ref()).await;
        asked.map_err(|fault| failed(slot, fault))
    }

    fn slot(&self, token: &str) -> Result<&Arc<Slot>> {
        self.tokens.get(token).ok_or_else(|| {
            Error::new(Reason::TokenUnavailable, format!("token {token} is not in this instance's configuration"))
        })
    }

    /// Takes a replica out of use because what it gave is not what was recorded: at once, then durably.
    async fn quarantine(&self, token: &str, replica: &str, why: &str) {
        if let Ok(slot) = self.slot(token) {
            slot.put_in_quarantine(self.store.as_ref(), replica, why).await;
        }
    }
}

/// Runs an act; one that panics is closed like any other that failed.
async fn unbroken<T>(act: impl Future<Output = Result<Verified<T>, Failed>>) -> Result<Verified<T>, Failed> {
    let mut act = pin!(act);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| act.as_mut().poll(context))).unwrap_or_else(|_| {
            let error = Error::new(Reason::Internal, "the act broke off");
            Poll::Ready(Err(Failed::from(error).afterwards()))
        })
    })
    .await
}

/// A lane's failure as the failure of an act.
fn failed(slot: &Slot, fault: LaneError) -> Failed {
    let outcome = fault.outcome();
    Failed::asking(slot.failure(fault), outcome)
}

/// The part of an act between intent and outcome.
trait AsyncAct<T>: Send + 'static {
    fn run(self, custody: &Custody) -> impl Future<Output = Result<Verified<T>, Failed>> + Send;
}

/// A row for the batch that records an outcome.
fn write(kind: Kind, name: &str, value: &impl serde::Serialize) -> Result<Write> {
    Write::new(kind, name, 0, value)
}

/// The deadline of an act whose caller named none, in seconds from now.
pub const DEADLINE_S: u64 = 10;
