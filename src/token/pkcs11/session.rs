//! The login and the sessions of one token: a logged-in guard, working sessions to borrow, and what to do when they are
//! lost. There is one login: when it is lost, all is opened anew, by whoever may say that a PIN is tried again.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType as CkUserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;

use super::fault::{Act, failure};
use super::module::Module;
use crate::error::{Error, Reason, Result};
use crate::key::{KeyId, PublicKey};
use crate::secret::Pin;
use crate::token::profile::{Profile, UserType};
use crate::token::{Binding, Class, Failure, KeyRef, Outcome, refusal};

/// A session that closes when dropped and says nothing if it was already gone.
pub(super) struct Held(Option<Session>);

impl Held {
    pub(super) fn read_only(module: &Module, slot: Slot) -> Result<Held, Failure> {
        let session = module.context.open_ro_session_no_drop(slot).map_err(|e| failure(Act::Look, &e))?;
        Ok(Held(Some(session)))
    }

    pub(super) fn read_write(module: &Module, slot: Slot) -> Result<Held, Failure> {
        let session = module.context.open_rw_session_no_drop(slot).map_err(|e| failure(Act::Look, &e))?;
        Ok(Held(Some(session)))
    }
}

impl std::ops::Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.0 {
            Some(session) => session,
            // Only `drop` takes the session out.
            None => unreachable!("a held session is there until it is dropped"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A session of a token that is gone cannot be closed; there is nothing left to do about it.
        let _ = self.0.take().map(Session::close);
    }
}

/// The sessions of one token. Handles of objects are good for one generation; every loss starts the next.
pub(super) struct Sessions {
    pub(super) module: Arc<Module>,
    /// Slot of the token.
    pub(super) slot: Slot,
    read_only: bool,
    /// Working sessions at most, by configuration.
    limit: usize,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    /// Keeps the login while working sessions come and go: closing the last session logs out.
    guard: Held,
    idle: Vec<Held>,
    /// Working sessions that exist, idle or lent.
    open: usize,
    /// Working sessions that may exist; less than configured if the token gave out.
    limit: usize,
    generation: u64,
    keys: HashMap<KeyId, (ObjectHandle, PublicKey)>,
    /// The login was lost: this process can do nothing more. It is not for it to try a PIN again.
    lost: bool,
}

/// A borrowed working session; goes back when dropped, unless it was spoiled.
pub(super) struct Lent<'a> {
    sessions: &'a Sessions,
    session: Option<Held>,
    pub(super) generation: u64,
}

impl Lent<'_> {
    pub(super) fn session(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("a lent session is there until it goes back"),
        }
    }

    /// Closes the session instead of giving it back: after a failure nobody knows its state.
    pub(super) fn spoil(mut self) {
        drop(self.session.take());
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        match self.session.take() {
            Some(session) if self.generation == state.generation => state.idle.push(session),
            stale => {
                state.open = state.open.saturating_sub(1);
                drop(state);
                drop(stale);
            }
        }
        self.sessions.returned.notify_one();
    }
}

impl Sessions {
    /// Finds the token, logs in once, and keeps the login.
    pub(super) fn connect(
        module: Arc<Module>,
        binding: &Binding,
        profile: &Profile,
        pin: impl FnOnce() -> Result<Pin>,
    ) -> Result<Sessions> {
        let user = match profile.login.user {
            UserType::User => CkUserType::User,
            UserType::Vendor(number) => CkUserType::VendorExtension(number),
        };
        let seen = module.find(&binding.label, &binding.serial)?;
        let guard = log_in(&module, seen.slot, &seen.info, user, pin)?;
        let limit = binding.sessions.max(1);
        let state = State { guard, idle: Vec::new(), open: 0, limit, generation: 0, keys: HashMap::new(), lost: false };
        Ok(Sessions {
            module,
            slot: seen.slot,
            read_only: profile.sessions.read_only,
            limit,
            state: Mutex::new(state),
            returned: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows a working session, opening one if none is idle and the limit allows, waiting otherwise.
    pub(super) fn lend(&self) -> Result<Lent<'_>, Failure> {
        self.lend_with(|_| Ok(())).map(|(lent, ())| lent)
    }

    /// Borrows a working session together with the key's handle, if it is known in this generation.
    pub(super) fn lend_for(&self, key: &KeyRef) -> Result<(Lent<'_>, Option<ObjectHandle>), Failure> {
        self.lend_with(|state| match state.keys.get(&key.id) {
            Some((handle, public)) if *public == key.public => Ok(Some(*handle)),
            Some(_) => Err(super::mismatch("the key found by this id has another public half")),
            None => Ok(None),
        })
    }

    fn lend_with<T>(&self, look: impl Fn(&State) -> Result<T, Failure>) -> Result<(Lent<'_>, T), Failure> {
        let (mut state, mut again) = (self.lock(), true);
        loop {
            if state.lost {
                return Err(login_lost());
            }
            let found = look(&state)?;
            let generation = state.generation;
            if let Some(session) = state.idle.pop() {
                return Ok((Lent { sessions: self, session: Some(session), generation }, found));
            }
            if state.open < state.limit {
                match self.open() {
                    Ok(session) => {
                        state.open += 1;
                        return Ok((Lent { sessions: self, session: Some(session), generation }, found));
                    }
                    // The token gives out before the configured number: live with what there is.
                    Err(f) if f.code == "CKR_SESSION_COUNT" && state.open > 0 => state.limit = state.open,
                    Err(f) if again && matches!(f.class, Class::Session | Class::Token) => {
                        self.renew(&mut state)?;
                        again = false;
                        continue;
                    }
                    Err(f) => return Err(f),
                }
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) -> Result<Held, Failure> {
        if self.read_only { Held::read_only(&self.module, self.slot) } else { self.read_write() }
    }

    /// A session of its own for an act that makes something.
    pub(super) fn read_write(&self) -> Result<Held, Failure> {
        Held::read_write(&self.module, self.slot)
    }

    /// Remembers where a key is, for this generation only.
    pub(super) fn remember(&self, key: &KeyRef, handle: ObjectHandle, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            state.keys.insert(key.id, (handle, key.public.clone()));
        }
    }

    /// Starts the next generation after a loss that was seen in `generation`. The first to see it does the work.
    pub(super) fn recover(&self, generation: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        match state.generation == generation {
            true => self.renew(&mut state),
            false if state.lost => Err(login_lost()),
            false => Ok(()),
        }
    }

    /// Throws all handles and idle sessions away, and looks whether the login stands.
    fn renew(&self, state: &mut State) -> Result<(), Failure> {
        state.generation += 1;
        state.keys.clear();
        state.open = state.open.saturating_sub(state.idle.len());
        state.idle.clear();
        state.limit = self.limit;
        state.lost = !is_logged_in(&state.guard);
        if state.lost { Err(login_lost()) } else { Ok(()) }
    }
}

/// Ends this process and begins another one, which finds the token anew.
fn login_lost() -> Failure {
    refusal(Class::Module, "C_GetSessionInfo", "the login is lost")
}

/// Whether the login of this process with the token stands.
pub(super) fn is_logged_in(session: &Session) -> bool {
    let info = session.get_session_info();
    info.is_ok_and(|i| matches!(i.session_state(), SessionState::RoUser | SessionState::RwUser))
}

/// Opens a guard session and logs it in, once, unless the token says that a wrong PIN would cost it.
fn log_in(
    module: &Module,
    slot: Slot,
    info: &TokenInfo,
    user: CkUserType,
    pin: impl FnOnce() -> Result<Pin>,
) -> Result<Held> {
    let barred = if info.user_pin_locked() {
        Some("is locked")
    } else if info.user_pin_final_try() {
        Some("has one try left, which is kept for a person")
    } else if info.user_pin_to_be_changed() {
        Some("must be changed before use")
    } else {
        None
    };
    if let Some(state) = barred {
        return Err(Error::new(Reason::PinLatched, format!("the user PIN of token {:?} {state}", info.label()))
            .hint("Log in with the device's own tool to set or reset the PIN, then clear the latch."));
    }
    let guard = Held::read_only(module, slot)?;
    match guard.login(user, Some(&AuthPin::new(pin()?.expose().into()))) {
        // The login belongs to the process and the token: another holder in this process has it already.
        Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(guard),
        Err(e) => Err(match failure(Act::Login, &e) {
            pin if pin.class == Class::Pin => Error::from(pin)
                .hint("Put the right PIN into its source, then clear the latch; it is not tried again before."),
            open if open.outcome == Outcome::Unknown => {
                Error::new(Reason::PinLatched, format!("{open}, which leaves open whether it refused the PIN"))
                    .answered(open.answer())
                    .detail(open)
                    .hint("Look at the token's counter of wrong PINs with the device's own tool, then clear the latch.")
            }
            refused => refused.into(),
        }),
    }
}
