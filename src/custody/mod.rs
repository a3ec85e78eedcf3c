//! Keys in tokens, and the only way to use them: permit, durable intent, token, verification, durable outcome.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use aws_lc_rs::signature::ParsedPublicKey;

use crate::audit::record::{ActNote, Event};
use crate::caller::{Caller, CallerNote};
use crate::cluster::SealProfile;
use crate::error::{Error, Reason, Result};
use crate::key::Hash;
use crate::policy::{Operation, Permit};
use crate::store::{Batch, Kind, Store, Write};
use crate::token::lane::Lane;
use crate::token::{Description, Failure, Token};

mod checkpoint;
pub mod faultpoint;
mod generate;
mod proof;
mod read;
mod record;
mod sign;
mod start;

pub use checkpoint::AUDIT_KEY;
pub use generate::Making;
pub use proof::{Intent, Recorded, Verified};
pub use read::{Page, performed};
pub use record::{KeyRecord, Standing};
pub use sign::{Signing, check as check_signature};

/// The custody of this instance: its tokens behind their lanes, and its records.
pub struct Custody {
    store: Arc<dyn Store>,
    tokens: BTreeMap<String, Slot>,
    held: RwLock<HashMap<String, Arc<Held>>>,
}

/// One open token.
pub struct Slot {
    /// The queue in front of its threads.
    pub lane: Lane,
    /// What the device says of itself.
    pub description: Description,
    /// The hash it does OAEP with.
    pub oaep: Hash,
}

/// A key ready for use: its record, and its public half parsed once.
pub struct Held {
    /// The record.
    pub record: KeyRecord,
    version: u64,
    verifier: ParsedPublicKey,
}

impl Custody {
    /// Takes over the store and the open tokens, by their names in the configuration.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tokens: BTreeMap<String, Slot>) -> Self {
        Custody { store, tokens, held: RwLock::default() }
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

    /// Records that a request was refused, before the caller learns it. Gives the refusal back, or the store's
    /// failure if it could not be recorded.
    pub async fn refuse(&self, caller: &Caller, operation: Operation, target: &str, refusal: Error) -> Error {
        let event = Event::Refusal {
            caller: caller.note(),
            operation: operation.name().to_owned(),
            target: target.chars().take(200).collect(),
            reason: refusal.reason().code().to_owned(),
            message: refusal.message().chars().take(500).collect(),
        };
        match self.store.commit(Batch::event(event)).await {
            Ok(_) => refusal,
            Err(fault) => fault.while_doing("the refusal cannot be recorded"),
        }
    }

    /// From the permit to the recorded outcome, as a task of its own: a caller that hangs up loses its answer and
    /// nothing else. `act` asks the token and verifies what comes back.
    async fn perform<T, F>(self: &Arc<Self>, permit: Permit, note: ActNote, act: F) -> Result<Recorded<T>>
    where
        T: Send + 'static,
        F: AsyncAct<T>,
    {
        let custody = Arc::clone(self);
        let point = note.name();
        let task = tokio::spawn(async move {
            let intent = Intent::open(custody.store.as_ref(), permit, note).await?;
            faultpoint::reach(&format!("after-intent:{point}")).await;
            let result = act.run(&custody).await;
            faultpoint::reach(&format!("before-outcome:{point}")).await;
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
    ) -> Result<T> {
        let slot = self.slot(token)?;
        if let Some(reason) = self.standing(token).await?.quarantined {
            return Err(Error::new(Reason::TokenMismatch, format!("token {token} is quarantined: {reason}"))
                .hint(format!("find out what happened to the device, then: keyward token release {token}")));
        }
        slot.lane.run(deadline, call).await.map_err(|fault| Error::from(fault).while_doing(format!("token {token}")))
    }

    fn slot(&self, token: &str) -> Result<&Slot> {
        self.tokens.get(token).ok_or_else(|| {
            Error::new(Reason::TokenUnavailable, format!("token {token} is not in this instance's configuration"))
        })
    }

    /// A token's standing: what is latched or quarantined.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn standing(&self, token: &str) -> Result<Standing> {
        Standing::of(self.store.as_ref(), token).await.map(|(standing, _)| standing)
    }

    /// Takes a token out of use because what it gave is not what was recorded.
    async fn quarantine(&self, token: &str, why: &str) {
        let change = |standing: &mut Standing| standing.quarantined = Some(why.to_owned());
        if let Err(fault) =
            Standing::change(self.store.as_ref(), token, "quarantined", &CallerNote::service(), why, change).await
        {
            tracing::error!(token, ?fault, "a quarantine cannot be recorded");
        }
    }
}

/// The part of an act between intent and outcome.
trait AsyncAct<T>: Send + 'static {
    fn run(self, custody: &Custody) -> impl Future<Output = Result<Verified<T>>> + Send;
}

/// A row for the batch that records an outcome.
fn write(kind: Kind, name: &str, value: &impl serde::Serialize) -> Result<Write> {
    Write::new(kind, name, 0, value)
}

/// The deadline of an act whose caller named none, in seconds from now.
pub const DEADLINE_S: u64 = 10;
