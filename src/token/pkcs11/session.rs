//! Login and sessions of one token: a logged-in guard, working sessions to borrow, and what to do when they are lost.

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
use crate::token::back_off::BackOff;
use crate::token::profile::{Profile, UserType};
use crate::token::{Binding, Class, Failure, KeyRef, Outcome};

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
    binding: Binding,
    user: CkUserType,
    read_only: bool,
    pin: Pin,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    slot: Slot,
    /// Keeps the login while working sessions come and go: closing the last session logs out.
    guard: Option<Held>,
    idle: Vec<Held>,
    /// Working sessions that exist, idle or lent.
    open: usize,
    /// Working sessions that may exist; less than configured if the token gave out.
    limit: usize,
    generation: u64,
    keys: HashMap<KeyId, (ObjectHandle, PublicKey)>,
    /// The token was looked for and not found.
    lost: bool,
    back_off: BackOff,
    pin_refused: bool,
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
    pub(super) fn connect(module: Arc<Module>, binding: &Binding, profile: &Profile, pin: Pin) -> Result<Sessions> {
        let user = match profile.login.user {
            UserType::User => CkUserType::User,
            UserType::Vendor(number) => CkUserType::VendorExtension(number),
        };
        let seen = module.find(&binding.label, &binding.serial)?;
        let guard = log_in(&module, seen.slot, &seen.info, user, &pin)?;
        let state = State {
            slot: seen.slot,
            guard: Some(guard),
            idle: Vec::new(),
            open: 0,
            limit: binding.sessions.max(1),
            generation: 0,
            keys: HashMap::new(),
            lost: false,
            back_off: BackOff::default(),
            pin_refused: false,
        };
        Ok(Sessions {
            module,
            binding: binding.clone(),
            user,
            read_only: profile.sessions.read_only,
            pin,
            state: Mutex::new(state),
            returned: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slot of the token now.
    pub(super) fn slot(&self) -> Slot {
        self.lock().slot
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
        let mut state = self.lock();
        loop {
            self.look_again(&mut state)?;
            let found = look(&state)?;
            let generation = state.generation;
            if let Some(session) = state.idle.pop() {
                return Ok((Lent { sessions: self, session: Some(session), generation }, found));
            }
            if state.open < state.limit {
                match self.open(state.slot) {
                    Ok(session) => {
                        state.open += 1;
                        return Ok((Lent { sessions: self, session: Some(session), generation }, found));
                    }
                    // The token gives out before the configured number: live with what there is.
                    Err(f) if f.code == "CKR_SESSION_COUNT" && state.open > 0 => state.limit = state.open,
                    Err(f) if matches!(f.class, Class::Session | Class::Token) => {
                        self.renew(&mut state)?;
                        continue;
                    }
                    Err(f) => return Err(f),
                }
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self, slot: Slot) -> Result<Held, Failure> {
        if self.read_only { Held::read_only(&self.module, slot) } else { Held::read_write(&self.module, slot) }
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
        if state.generation == generation { self.renew(&mut state) } else { Ok(()) }
    }

    /// Looks for a lost token again, if its time has come.
    fn look_again(&self, state: &mut State) -> Result<(), Failure> {
        if state.pin_refused {
            return Err(refused(Class::Pin, "C_Login", "the PIN was refused before and is not tried again".to_owned()));
        }
        match (state.lost, state.back_off.is_over()) {
            (false, _) => Ok(()),
            (true, true) => self.renew(state),
            (true, false) => {
                Err(refused(Class::Token, "C_GetSlotList", "the token is gone and is looked for again soon".to_owned()))
            }
        }
    }

    /// Throws all handles and idle sessions away, and logs in again if the login is lost: one try.
    fn renew(&self, state: &mut State) -> Result<(), Failure> {
        state.generation += 1;
        state.keys.clear();
        state.open = state.open.saturating_sub(state.idle.len());
        state.idle.clear();
        state.limit = self.binding.sessions.max(1);
        if state.guard.as_ref().is_some_and(|guard| is_logged_in(guard)) {
            state.lost = false;
            return Ok(());
        }
        state.guard = None;
        let connected = self
            .module
            .find(&self.binding.label, &self.binding.serial)
            .and_then(|seen| Ok((seen.slot, log_in(&self.module, seen.slot, &seen.info, self.user, &self.pin)?)));
        match connected {
            Ok((slot, guard)) => {
                (state.slot, state.guard, state.lost) = (slot, Some(guard), false);
                state.back_off.reset();
                Ok(())
            }
            Err(e) if matches!(e.reason(), Reason::PinRefused | Reason::PinLatched) => {
                state.pin_refused = true;
                Err(refused(Class::Pin, "C_Login", e.message().to_owned()))
            }
            Err(e) => {
                state.lost = true;
                state.back_off.longer();
                Err(refused(Class::Token, "C_GetSlotList", e.message().to_owned()))
            }
        }
    }
}

/// Whether the login of this process with the token stands.
pub(super) fn is_logged_in(session: &Session) -> bool {
    let info = session.get_session_info();
    info.is_ok_and(|i| matches!(i.session_state(), SessionState::RoUser | SessionState::RwUser))
}

/// Opens a guard session and logs it in, once, unless the token says that a wrong PIN would cost it.
fn log_in(module: &Module, slot: Slot, info: &TokenInfo, user: CkUserType, pin: &Pin) -> Result<Held> {
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
    match guard.login(user, Some(&AuthPin::new(pin.expose().into()))) {
        // The login belongs to the process and the token: another holder in this process has it already.
        Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(guard),
        Err(e) => {
            let failed = failure(Act::Login, &e);
            let is_pin = failed.class == Class::Pin;
            let error = Error::from(failed);
            Err(if is_pin {
                error.hint("Put the right PIN into its source, then clear the latch; it is not tried again before.")
            } else {
                error
            })
        }
    }
}

fn refused(class: Class, function: &'static str, code: String) -> Failure {
    Failure { class, outcome: Outcome::Refused, function, code }
}
