//! What custody keeps of keys and tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::audit::chain::ChainHash;
use crate::audit::record::Event;
use crate::caller::CallerNote;
use crate::error::{Error, Reason, Result};
use crate::key::{KeyId, KeyRole, KeyState, Mode, PublicKey};
use crate::policy::{Operation, Permit};
use crate::store::{Batch, Claim, Claimed, Kind, Object, Store, Write};
use crate::token::host::{AroundLogin, FreshPin, Login};
use crate::token::{Evidence, KeyRef};

/// Time for a login to a device, which one instance at a time makes, in seconds: the longest that a host is waited for with
/// its PIN, and then some for the records around it.
const LOGIN_S: u32 = 45;
/// How long a store that fails is tried to be told of a login's end, in seconds. A login takes the rest of its lease at most.
const LIFT_S: u64 = 20;
/// How often to ask whether the other instance has ended its login, in milliseconds.
const AGAIN_MS: u64 = 200;

/// A key's record: all of it but the private half, which is in the token alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Resource name, `clusters/{c}/keys/{k}`.
    pub name: String,
    /// What it is for.
    pub role: KeyRole,
    /// Cryptographic mode.
    pub mode: Mode,
    /// Where in its life it is.
    pub state: KeyState,
    /// The state that it goes back to, while it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_missing: Option<KeyState>,
    /// CKA_ID in its token.
    pub id: KeyId,
    /// The token's name in the configuration.
    pub token: String,
    /// The public half.
    pub public: PublicKey,
    /// What the token says of the private half.
    pub evidence: Evidence,
    /// When it was made: microseconds since 1970, UTC.
    pub created_us: i64,
}

impl KeyRecord {
    /// The key as a token knows it.
    #[must_use]
    pub fn in_token(&self) -> KeyRef {
        KeyRef { id: self.id, public: self.public.clone() }
    }
}

/// What latches a device while a login to it is under way, and stays if its end is never recorded.
const BEGUN: &str = "a login was begun and its end is not recorded";

/// The work that a login to a device is, as instances lease it.
fn login_to(device: &str) -> String {
    format!("login {device}")
}

/// Whether a token may be used, and if not, why. Kept across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its PIN was refused: nobody tries again before a person clears this.
    pub latched: Option<String>,
    /// It gave a key or a signature that is not the recorded one.
    pub quarantined: Option<String>,
}

/// Leases work that other instances may have under way: of a login that they have begun, they say how it ended.
async fn wait_for(store: &dyn Store, work: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(2 * u64::from(LOGIN_S));
    while !store.lease(work, LOGIN_S).await? {
        if Instant::now() > end {
            return Err(Error::new(Reason::TokenUnavailable, format!("{work}: another instance is at it"))
                .hint("try again when that instance has started"));
        }
        tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
    }
    Ok(())
}

/// How standings name a device: by what it is, not by what a configuration calls it. Only where another replica of its
/// token has the same label and serial, it takes this replica's name too to tell them apart.
#[must_use]
pub fn standing_of(serial: &str, label: &str, replica: Option<&String>) -> String {
    let device = format!("{label} serial {serial}");
    match replica {
        Some(name) => format!("{device} as {name}"),
        None => device,
    }
}

/// Records that a token is tried out with keys of role `probe`, which are made for it.
///
/// # Errors
/// `INTERNAL` for a permit of another operation; those of the store.
pub async fn record_probe(store: &dyn Store, permit: Permit, token: &str) -> Result<()> {
    if permit.operation() != Operation::ProbeToken {
        return Err(Error::new(Reason::Internal, "a permit of another operation"));
    }
    let event = Event::Maintenance {
        caller: permit.caller().note(),
        purpose: "probe".to_owned(),
        keys: vec![format!("tokens/{token}")],
    };
    store.commit(Batch::event(event)).await.map(|_| ())
}

impl Standing {
    /// The standing of a token, and the version of its record (0 if it has none). It must be known before a token can be
    /// asked which logs count. So a log that does not may hold a token back, and what another one has recorded to hold it
    /// back holds on, whatever this one says. A version that no record tells of holds it back, whatever that says.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(store: &dyn Store, token: &str) -> Result<(Self, u64)> {
        Standing::read(store, token).await.map(|(standing, version, _)| (standing, version))
    }

    /// The same, and whether its last change is the word of a log that does not count.
    async fn read(store: &dyn Store, token: &str) -> Result<(Self, u64, bool)> {
        let Some(Claimed { object, by }) = store.claimed(Kind::Token, token).await? else {
            return Ok((Standing::default(), 0, false));
        };
        let standing = match &by {
            None => object.read()?,
            Some(claim) => Standing::claimed(&object, claim)?,
        };
        Ok((standing, object.version, by.is_some()))
    }

    /// What a log that does not count says, and beside it what the last one that counts had to say.
    fn claimed(object: &Object, claim: &Claim) -> Result<Self> {
        let Some(log) = &claim.log else {
            return Ok(Standing::held_back("it stands otherwise in the store than any record tells"));
        };
        let changed =
            || Standing::held_back(&format!("log {log}, which does not count, has changed what was recorded of it"));
        let said: Standing = object.read().unwrap_or_else(|_| changed());
        let Some(counted) = &claim.counted else { return Ok(said) };
        // Only the hash of that is there.
        let latches = [None, said.latched.clone(), Some(BEGUN.to_owned())];
        let quarantines = [None, said.quarantined.clone()];
        let mut was = changed();
        for latched in latches {
            for quarantined in quarantines.clone() {
                let guess = Standing { latched: latched.clone(), quarantined };
                if ChainHash::of(&Write::new(Kind::Token, "", 0, &guess)?.body).to_string() == *counted {
                    was = guess;
                }
            }
        }
        Ok(Standing { latched: said.latched.or(was.latched), quarantined: said.quarantined.or(was.quarantined) })
    }

    fn held_back(why: &str) -> Self {
        Standing { latched: Some(why.to_owned()), quarantined: Some(why.to_owned()) }
    }

    /// The standing of a token, the version of its record, and whether what latches it is a login that is under way: in
    /// this instance, which `here` tells, or in another one. Otherwise that login broke off.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn seen(store: &dyn Store, token: &str, here: impl Fn() -> bool) -> Result<(Self, u64, bool)> {
        let (mut standing, mut version) = Standing::of(store, token).await?;
        loop {
            if standing.latched.as_deref() != Some(BEGUN) {
                return Ok((standing, version, false));
            }
            // Nobody else's if it can be given back.
            if here() || !store.lease(&login_to(token), 0).await? {
                return Ok((standing, version, true));
            }
            let now = Standing::of(store, token).await?;
            if now.1 == version {
                return Ok((standing, version, false));
            }
            // That login has ended meanwhile.
            (standing, version) = now;
        }
    }

    /// What a device's host does around each of its logins: that a try is under way is durable before the host gets the
    /// PIN. Whatever becomes of the host, of this process or of the store meanwhile, a PIN that was refused is not tried
    /// again before a person says so; nor is one that another instance saw refused. Called from a runtime, used outside.
    ///
    /// The login ends in `PIN_LATCHED` if an earlier try is not cleared, or in the store's errors.
    pub fn around_login(store: Arc<dyn Store>, device: String) -> AroundLogin {
        let runtime = tokio::runtime::Handle::current();
        Box::new(move |fresh, login| runtime.block_on(Standing::log_in(store.as_ref(), &device, fresh, login)))
    }

    async fn log_in(store: &dyn Store, device: &str, fresh: FreshPin<'_>, login: Login<'_>) -> Result<()> {
        let work = login_to(device);
        wait_for(store, &work).await?;
        let done = Standing::try_log_in(store, device, fresh, login).await;
        if let Err(fault) = store.lease(&work, 0).await {
            tracing::warn!(work, ?fault, "a lease cannot be given back; it runs out");
        }
        done
    }

    async fn try_log_in(store: &dyn Store, device: &str, fresh: FreshPin<'_>, login: Login<'_>) -> Result<()> {
        let service = CallerNote::service();
        let (standing, _) = Standing::of(store, device).await?;
        if let Some(latched) = standing.latched {
            return Err(Error::new(Reason::PinLatched, format!("its PIN is latched: {latched}")));
        }
        // As it is now, for the login may have waited for that of another instance; and a source that cannot be read is no
        // login, of which nothing is recorded.
        let pin = fresh()?;
        Standing::change(store, device, "login-begun", &service, "", |standing| {
            standing.latched = Some(BEGUN.to_owned());
        })
        .await?;
        let done = login(&pin);
        let recorded = match &done {
            Err(fault) if matches!(fault.reason(), Reason::PinRefused | Reason::PinLatched) => {
                let words = fault.message().to_owned();
                Standing::change(store, device, "latched", &service, &words, |standing| {
                    standing.latched = Some(words.clone());
                })
                .await
            }
            Ok(()) => Standing::lift(store, device, "logged-in", "").await,
            Err(fault) => Standing::lift(store, device, "login-not-made", fault.message()).await,
        };
        // The login's own failure says more than the store's, and the latch is durable either way.
        done.and(recorded)
    }

    /// Takes off that a login is under way, once its end is known and was no refusal. A store that is away just then is
    /// tried for a while: what is not recorded is a latch.
    async fn lift(store: &dyn Store, device: &str, state: &str, reason: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(LIFT_S);
        loop {
            match Standing::change(store, device, state, &CallerNote::service(), reason, |s| s.latched = None).await {
                Err(fault) if fault.reason() == Reason::StoreUnavailable && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
                }
                done => return done,
            }
        }
    }

    /// Changes a token's standing and records who did it and why.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn change(
        store: &dyn Store,
        token: &str,
        state: &str,
        caller: &CallerNote,
        reason: &str,
        change: impl Fn(&mut Standing),
    ) -> Result<()> {
        let change = |standing: &mut Standing, _| {
            change(standing);
            true
        };
        Standing::change_if(store, token, state, caller, reason, change).await
    }

    /// The same, if `change` says that it is to be recorded. It is told whether a log that does not count has changed the
    /// standing last: what only that one says, it may take back.
    pub(super) async fn change_if(
        store: &dyn Store,
        token: &str,
        state: &str,
        caller: &CallerNote,
        reason: &str,
        change: impl Fn(&mut Standing, bool) -> bool,
    ) -> Result<()> {
        loop {
            let (mut standing, version, is_claimed) = Standing::read(store, token).await?;
            if !change(&mut standing, is_claimed) {
                return Ok(());
            }
            match standing.keep(store, token, version, state, caller, reason).await {
                // Somebody else changed another side of it meanwhile.
                Err(fault) if fault.reason() == Reason::StoreConflict => {}
                done => return done,
            }
        }
    }

    /// Records this standing of a token over that version of it.
    ///
    /// # Errors
    /// `STORE_CONFLICT` if it has changed since; those of the store.
    pub(super) async fn keep(
        &self,
        store: &dyn Store,
        token: &str,
        version: u64,
        state: &str,
        caller: &CallerNote,
        reason: &str,
    ) -> Result<()> {
        let event = Event::TokenState {
            token: token.to_owned(),
            state: state.to_owned(),
            caller: caller.clone(),
            reason: reason.to_owned(),
        };
        let writes = vec![Write::new(Kind::Token, token, version, self)?];
        store.commit(Batch { writes, events: vec![event] }).await.map(|_| ())
    }
}
