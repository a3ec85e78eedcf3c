//! What a person sees of tokens and decides about them.

use std::sync::Arc;

use crate::caller::CallerNote;
use crate::custody::record::Standing;
use crate::custody::slot::{Member, Slot};
use crate::custody::{Custody, performed};
use crate::error::{Error, Reason, Result};
use crate::policy::{Operation, Permit};
use crate::secret::Pin;
use crate::store::{Batch, Store};
use crate::token::replica::{Health, Status};
use crate::token::{Binding, Description};

/// A token as it stands now.
#[derive(Clone, Debug)]
pub struct TokenStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether a key of custody is in it.
    pub needed: bool,
    /// Whether one of its replicas serves.
    pub serves: bool,
    /// Its replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaStatus>,
}

/// A replica as it stands now. Without a running service only what is configured and recorded is known.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Which device.
    pub binding: Binding,
    /// What the device said of itself when it was last logged in to.
    pub description: Option<Description>,
    /// How it does, in a running service.
    pub status: Option<Status>,
    /// Child processes that held it before the present one.
    pub restarts: u64,
    /// Process id of the child that holds it, if one does.
    pub pid: Option<u32>,
    /// A login to it is under way: whether its PIN is latched is known when that has ended.
    pub login_under_way: bool,
    /// What latched its PIN.
    pub latched: Option<String>,
    /// What put it into quarantine.
    pub quarantined: Option<String>,
}

impl Custody {
    /// How the tokens stand, in the order of their names.
    ///
    /// # Errors
    /// Those of the store, which knows what is latched and quarantined.
    pub async fn tokens(&self) -> Result<Vec<TokenStatus>> {
        let mut tokens = Vec::new();
        for slot in self.tokens.values() {
            tokens.push(self.status(slot).await?);
        }
        Ok(tokens)
    }

    /// How one token stands.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn token(&self, name: &str) -> Result<TokenStatus> {
        let slot = self.tokens.get(name).ok_or_else(|| self.no_token(name))?;
        self.status(slot).await
    }

    async fn status(&self, slot: &Slot) -> Result<TokenStatus> {
        let mut replicas = Vec::new();
        for (member, status) in slot.members.iter().zip(slot.replicas.statuses()) {
            let here = || member.device.host.is_logging_in();
            let (standing, _, login_under_way) = Standing::seen(self.store.as_ref(), &member.standing(), here).await?;
            replicas.push(ReplicaStatus {
                binding: member.device.binding.clone(),
                description: member.description(),
                status: Some(status),
                restarts: member.device.host.restarts(),
                pid: member.device.host.pid(),
                login_under_way,
                latched: standing.latched.filter(|_| !login_under_way),
                quarantined: standing.quarantined,
            });
        }
        Ok(TokenStatus { name: slot.name.clone(), needed: slot.is_needed(), serves: slot.serves(), replicas })
    }

    /// Whether each token can be used, and whether it is needed, by name.
    #[must_use]
    pub fn readiness(&self) -> Vec<(String, bool, bool)> {
        self.tokens.values().map(|slot| (slot.name.clone(), slot.serves(), slot.is_needed())).collect()
    }

    /// Why the token of a key cannot be used now, if so.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such key; `TOKEN_WAITING`, `TOKEN_MISMATCH`, `TOKEN_UNAVAILABLE`.
    pub async fn usable(&self, key: &str) -> Result<()> {
        let slot = self.slot(&self.key(key).await?.record.token)?;
        slot.barred()?;
        if slot.serves() { Ok(()) } else { Err(slot.unavailable(&format!("token {} cannot be used now", slot.name))) }
    }

    /// One new try to log in to what a name means: a token, or one of its replicas. With this PIN, or that of its
    /// source. What one replica answers keeps none of the others from being tried. As a task of its own: a person who goes
    /// away loses the answer and nothing else.
    ///
    /// # Errors
    /// `NOT_FOUND`; `PIN_LATCHED` if a person has not cleared the latch yet; those of logging in, of every replica that
    /// could not be logged in.
    pub async fn log_in(self: &Arc<Self>, permit: Permit, name: &str, pin: Option<Pin>) -> Result<TokenStatus> {
        let (custody, name) = (Arc::clone(self), name.to_owned());
        let task = tokio::spawn(async move { custody.log_in_each(permit, &name, pin).await });
        task.await.map_err(|fault| Error::new(Reason::Internal, "a login broke off").detail(fault))?
    }

    async fn log_in_each(&self, permit: Permit, name: &str, pin: Option<Pin>) -> Result<TokenStatus> {
        let (slot, members) = self.named(name)?;
        let caller = permit.caller().note();
        self.store.commit(Batch::event(performed(permit, &format!("tokens/{name}")))).await?;
        let serves = |member: &Member| {
            let statuses = slot.replicas.status();
            statuses.iter().any(|(n, health)| n == member.name() && *health == Health::Healthy)
        };
        let (mut pin, mut faults) = (pin, Vec::new());
        for member in members {
            // Of two people at once, the second one finds what became of the first one's login, and ends no host of it.
            let _one = member.logging_in.lock().await;
            if serves(member) {
                continue;
            }
            match slot.log_in(member, pin.take()).await {
                Ok(()) => tracing::info!(by = caller.name, "{} is logged in", slot.label(member.name())),
                Err(fault) => faults.push(fault),
            }
        }
        self.look_for_keys(slot).await;
        match faults.into_iter().reduce(both) {
            Some(fault) => Err(fault),
            None => self.status(slot).await,
        }
    }

    /// Allows one more try of a device's PIN. Gives why it was latched, if it was.
    ///
    /// # Errors
    /// `NOT_FOUND`; `TOKEN_BUSY` while a login is under way; those of the store.
    pub async fn unlatch(&self, permit: Permit, name: &str) -> Result<Option<String>> {
        let (slot, members) = self.named(name)?;
        let _recording = slot.before_clearing(self.store.as_ref(), &members).await?;
        let mut was = None;
        for member in members {
            let here = || member.device.host.is_logging_in();
            was = clear(self.store.as_ref(), &permit, &member.standing(), Hold::Latch, here).await?.or(was);
        }
        Ok(was)
    }

    /// Ends a quarantine. Gives why it was imposed, if it was.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn release(&self, permit: Permit, name: &str) -> Result<Option<String>> {
        let (slot, members) = self.named(name)?;
        let _recording = slot.before_clearing(self.store.as_ref(), &members).await?;
        let mut was = None;
        for member in members {
            was = clear(self.store.as_ref(), &permit, &member.standing(), Hold::Quarantine, || false).await?.or(was);
            slot.heed(member, None);
            slot.replicas.release(member.name());
        }
        Ok(was)
    }

    /// A token with all its replicas, or with the one that is named.
    fn named(&self, name: &str) -> Result<(&Slot, Vec<&Member>)> {
        if let Some(slot) = self.tokens.get(name) {
            return Ok((slot, slot.members.iter().collect()));
        }
        let of = |slot| -> Option<(&Slot, Vec<&Member>)> {
            let slot: &Slot = slot;
            slot.members.iter().find(|member| member.name() == name).map(|member| (slot, vec![member]))
        };
        self.tokens.values().map(Arc::as_ref).find_map(of).ok_or_else(|| self.no_token(name))
    }

    fn no_token(&self, name: &str) -> Error {
        let members = self.tokens.values().flat_map(|slot| slot.members.iter().map(Member::name));
        no_token(name, &members.collect::<Vec<_>>())
    }
}

/// Two failures as one: of the reason of the first, with the words and the next steps of both.
fn both(first: Error, second: Error) -> Error {
    let joined = |one: Option<&str>, two: Option<&str>| match (one, two) {
        (Some(one), Some(two)) => Some(format!("{one}; {two}")),
        (one, two) => one.or(two).map(str::to_owned),
    };
    let hint = joined(first.next_step(), second.next_step());
    let detail = joined(first.private_detail(), second.private_detail());
    let mut fault = Error::new(first.reason(), format!("{}; {}", first.message(), second.message()));
    if let Some(hint) = hint {
        fault = fault.hint(hint);
    }
    if let Some(detail) = detail {
        fault = fault.detail(detail);
    }
    fault
}

/// There is no token or replica of this name.
#[must_use]
pub fn no_token(name: &str, names: &[&str]) -> Error {
    Error::new(Reason::NotFound, format!("the configuration has no token {name}"))
        .hint(format!("name one of: {}", names.join(", ")))
}

/// What holds a device back, and is cleared by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A refused PIN.
    Latch,
    /// What it gave was not what was recorded.
    Quarantine,
}

/// Clears what holds a device back, and records who did it. Gives what it was held for, if it was. A login under way, in
/// this instance as `logging_in` tells or in another, is not cleared: what its crash would leave is all that keeps the PIN
/// from another try.
///
/// # Errors
/// `INTERNAL` for a permit of another operation; `TOKEN_BUSY` while a login is under way; those of the store.
pub async fn clear(
    store: &dyn Store,
    permit: &Permit,
    device: &str,
    hold: Hold,
    logging_in: impl Fn() -> bool,
) -> Result<Option<String>> {
    let (operation, state) = match hold {
        Hold::Latch => (Operation::UnlatchToken, "unlatched"),
        Hold::Quarantine => (Operation::ReleaseToken, "released"),
    };
    if permit.operation() != operation {
        return Err(Error::new(Reason::Internal, "a permit of another operation"));
    }
    let caller: CallerNote = permit.caller().note();
    loop {
        let (mut standing, version, under_way) = Standing::seen(store, device, &logging_in).await?;
        let was = match hold {
            Hold::Latch if under_way => {
                return Err(Error::new(Reason::TokenBusy, format!("a login to {device} is under way"))
                    .hint("wait for its end, which says whether the PIN is latched: keyward token status"));
            }
            Hold::Latch => standing.latched.take(),
            Hold::Quarantine => standing.quarantined.take(),
        };
        let Some(was) = was else { return Ok(None) };
        match standing.keep(store, device, version, state, &caller, &was).await {
            // It is another standing than the one that was judged.
            Err(fault) if fault.reason() == Reason::StoreConflict => {}
            done => return done.map(|()| Some(was)),
        }
    }
}
