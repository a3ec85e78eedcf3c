//! Keys in tokens, and the only way to use them: permit, durable intent, token, verification, durable outcome.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Instant;

use aws_lc_rs::signature::ParsedPublicKey;

use crate::audit::record::ActNote;
use crate::caller::CallerNote;
use crate::cluster::SealProfile;
use crate::error::{Error, Reason, Result};
use crate::key::Hash;
use crate::policy::Permit;
use crate::store::{Kind, Store, Write};
use crate::token::lane::{Lane, LaneError};
use crate::token::{Class, Description, Failure, Token};

mod anchor;
mod checkpoint;
mod countersign;
mod entries;
pub mod faultpoint;
mod generate;
mod proof;
mod prove;
mod read;
mod record;
mod refusal;
mod sign;
mod start;
mod unseal;

pub use anchor::LogFiles;
pub use checkpoint::{AUDIT_KEY, Ledger, Pace};
pub use entries::{Found, Query};
pub use generate::Making;
use proof::Failed;
pub use proof::{Intent, Recorded, Verified};
pub use read::{Page, performed};
pub use record::{KeyRecord, Standing, device};
use refusal::Refusals;
pub use sign::Signing;
pub use start::Run;
pub use unseal::{StandIn, unseal};

/// The custody of this instance: its tokens behind their lanes, and its records.
pub struct Custody {
    store: Arc<dyn Store>,
    tokens: BTreeMap<String, Slot>,
    ledger: Ledger,
    held: RwLock<HashMap<String, Arc<Held>>>,
    refusals: Arc<Refusals>,
    /// Held for reading by each act under way; true once no more may begin.
    stopping: Arc<tokio::sync::RwLock<bool>>,
}

/// One open token.
pub struct Slot {
    lane: Lane,
    description: Description,
    oaep: Hash,
    /// Why it is out of use, if it is. What is recorded follows; this holds at once.
    quarantined: RwLock<Option<String>>,
}

impl Slot {
    /// An open token behind its lane, with the hash that it does OAEP with.
    ///
    /// # Errors
    /// Those of the store, which knows whether the device is quarantined.
    pub async fn new(store: &dyn Store, lane: Lane, description: Description, oaep: Hash) -> Result<Self> {
        let (standing, _) = Standing::of(store, &device(&description.serial, &description.label)).await?;
        Ok(Slot { lane, description, oaep, quarantined: RwLock::new(standing.quarantined) })
    }

    fn device(&self) -> String {
        device(&self.description.serial, &self.description.label)
    }
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
        Custody { store, tokens, ledger, held: RwLock::default(), refusals, stopping: Arc::default() }
    }

    /// The store, for the rooms that keep records of their own.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
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

    /// From the permit to the recorded outcome, as a task of its own: a caller that hangs up loses its answer and
    /// nothing else. `act` asks the token and verifies what comes back.
    async fn perform<T, F>(self: &Arc<Self>, permit: Permit, note: ActNote, act: F) -> Result<Recorded<T>>
    where
        T: Send + 'static,
        F: AsyncAct<T>,
    {
        let custody = Arc::clone(self);
        let task = tokio::spawn(async move {
            let stopping = Arc::clone(&custody.stopping).read_owned().await;
            if *stopping {
                return Err(Error::new(Reason::StoreClosed, "this instance is stopping"));
            }
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

    /// Runs one call on a token's lane.
    async fn ask<T: Send + 'static>(
        &self,
        token: &str,
        deadline: Instant,
        call: impl FnOnce(&dyn Token) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failed> {
        let slot = self.slot(token)?;
        let quarantined = slot.quarantined.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = quarantined {
            return Err(Error::new(Reason::TokenMismatch, format!("token {token} is quarantined: {reason}"))
                .hint(format!(
                    "find out what happened to the device; then stop this service and say: keyward token release {token}"
                ))
                .into());
        }
        let fault = match slot.lane.run(deadline, call).await {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        let outcome = fault.outcome();
        let class = match &fault {
            LaneError::Failed(failure) => Some(failure.class),
            _ => None,
        };
        let error = Error::from(fault).while_doing(format!("token {token}"));
        match class {
            Some(Class::Mismatch) => self.quarantine(token, error.message()).await,
            Some(Class::Pin) => self.latch(slot, error.message()).await,
            _ => {}
        }
        Err(Failed::asking(error, outcome))
    }

    fn slot(&self, token: &str) -> Result<&Slot> {
        self.tokens.get(token).ok_or_else(|| {
            Error::new(Reason::TokenUnavailable, format!("token {token} is not in this instance's configuration"))
        })
    }

    /// Takes a token out of use because what it gave is not what was recorded: at once, then durably.
    async fn quarantine(&self, token: &str, why: &str) {
        let Ok(slot) = self.slot(token) else { return };
        {
            let mut quarantined = slot.quarantined.write().unwrap_or_else(PoisonError::into_inner);
            if quarantined.is_some() {
                return;
            }
            *quarantined = Some(why.to_owned());
        }
        tracing::error!(token, why, "the token is quarantined");
        let change = |standing: &mut Standing| standing.quarantined = Some(why.to_owned());
        self.change(slot, "quarantined", why, change).await;
    }

    /// Keeps a PIN that was refused after the start from being tried at the next one.
    async fn latch(&self, slot: &Slot, why: &str) {
        self.change(slot, "latched", why, |standing| standing.latched = Some(why.to_owned())).await;
    }

    async fn change(&self, slot: &Slot, state: &str, why: &str, change: impl FnOnce(&mut Standing)) {
        let (store, device) = (self.store.as_ref(), slot.device());
        if let Err(fault) = Standing::change(store, &device, state, &CallerNote::service(), why, change).await {
            tracing::error!(device, state, ?fault, "the standing of a token cannot be recorded");
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
