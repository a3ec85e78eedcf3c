//! How a device does: what its acts and probes say of it, and what it takes to serve again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Class, Failure};
use crate::error::{Answer, Error};

/// What is said of a device that has an act for too long, and of one that does not get it for too long.
const TOO_LONG: &str = "an act takes longer than its profile allows";
const OPENING: &str = "its token host is being started, and has not opened the device yet";

/// How a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Serves.
    Healthy,
    /// Failed; used only if no other is left, until a probe succeeds.
    Failed {
        /// What it answered.
        why: Why,
    },
    /// Has no PIN that may be tried: not used until a person logs it in.
    Waiting {
        /// Why it has none.
        why: Why,
    },
    /// Its key or its signature was not the recorded one: not used until a person releases it.
    Quarantined {
        /// What was seen.
        why: Why,
    },
}

/// Why a replica does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// In words.
    pub words: String,
    /// In the device's own, if it said something.
    pub answer: Option<Answer>,
}

impl From<&str> for Why {
    fn from(words: &str) -> Self {
        Why { words: words.to_owned(), answer: None }
    }
}

impl From<&Failure> for Why {
    fn from(failure: &Failure) -> Self {
        Why { words: failure.to_string(), answer: failure.answer() }
    }
}

impl From<&Error> for Why {
    fn from(error: &Error) -> Self {
        let answer = error.answer().cloned();
        let untold = answer.as_ref().filter(|answer| !error.message().contains(&answer.value));
        let said = untold.map(|answer| format!(": {} answered {}", answer.function, answer.value));
        Why { words: format!("{}{}", error.message(), said.unwrap_or_default()), answer }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl Health {
    /// One word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Failed { .. } => "failed",
            Health::Waiting { .. } => "waiting",
            Health::Quarantined { .. } => "quarantined",
        }
    }

    /// The reason; empty if it serves.
    #[must_use]
    pub fn why(&self) -> &str {
        self.reason().map_or("", |why| &why.words)
    }

    /// What the device answered, if that is why it does not serve.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.reason()?.answer.as_ref()
    }

    fn reason(&self) -> Option<&Why> {
        match self {
            Health::Healthy => None,
            Health::Failed { why } | Health::Waiting { why } | Health::Quarantined { why } => Some(why),
        }
    }
}

/// How a replica stands. Its acts know it too: what the device said counts, whether or not a caller still waits for it.
pub(super) struct Standing {
    state: Mutex<State>,
    changed: Arc<AtomicBool>,
}

pub(super) struct State {
    pub(super) health: Health,
    pub(super) since: Instant,
    /// When it last did what it was asked.
    pub(super) answered: Option<Instant>,
    /// When a probe last ended, well or not.
    pub(super) probed: Option<Instant>,
    /// A ciphertext did not decrypt, and only a probe can tell whose fault that is.
    pub(super) doubted: bool,
    pub(super) trial: Option<Trial>,
    pub(super) told: bool,
    /// The acts that run, by their numbers.
    running: BTreeMap<u64, Running>,
    begun: u64,
}

/// What only a probe that succeeds ends, whatever else the replica does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// A probe failed.
    Failed,
    /// A quarantine was ended.
    Released,
}

/// An act that runs.
struct Running {
    /// When the device must have it, or have done it.
    due: Instant,
    /// The device has it.
    given: bool,
    /// The device has it, or had it before what holds it went down.
    begun: bool,
}

/// Ends an act that runs, however that ends.
struct End<'a>(&'a Standing, u64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().running.remove(&self.1);
    }
}

impl State {
    /// Why it cannot be said to serve, though nothing has failed.
    fn overdue(&self) -> Option<&'static str> {
        let now = Instant::now();
        let late = self.running.values().filter(|act| act.due <= now);
        late.max_by_key(|act| act.given).map(|act| if act.given { TOO_LONG } else { OPENING })
    }
}

impl Standing {
    /// Of a replica that nothing is known of.
    pub(super) fn new(changed: Arc<AtomicBool>) -> Self {
        let state = State {
            health: Health::Healthy,
            since: Instant::now(),
            answered: None,
            probed: None,
            doubted: false,
            trial: None,
            told: true,
            running: BTreeMap::new(),
            begun: 0,
        };
        Standing { state: Mutex::new(state), changed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands now. One whose act is overdue has failed: nobody waits until that act ends.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let (Health::Healthy, Some(why)) = (&state.health, state.overdue()) {
            self.put(&mut state, Health::Failed { why: why.into() });
        }
        state
    }

    /// Has the device do an act, which is told how to say whether the device has it. The device must get it within this
    /// time, and have done it within this time from then on.
    pub(super) fn watch<T>(&self, max: Duration, act: impl FnOnce(&(dyn Fn(bool) + Sync)) -> T) -> T {
        let number = {
            let mut state = self.lock();
            state.begun += 1;
            let number = state.begun;
            state.running.insert(number, Running { due: Instant::now() + max, given: false, begun: false });
            number
        };
        let _end = End(self, number);
        act(&|given| {
            if let Some(act) = self.lock().running.get_mut(&number) {
                // What is made once more has no more time.
                let due = if act.begun { act.due } else { Instant::now() + max };
                *act = Running { due, given, begun: true };
            }
        })
    }

    /// What an act's end says of the device: nothing, if the input did not fit, it has not this one key, or the caller's
    /// time was over before.
    pub(super) fn judge(&self, failure: &Failure) {
        match failure.class {
            Class::Caller | Class::Unsupported | Class::KeyMissing => {}
            _ if failure.is_too_late() => {}
            Class::Undecided => self.state().doubted = true,
            _ => self.becomes(verdict(failure)),
        }
    }

    /// What a probe showed.
    pub(super) fn tried(&self, next: Health) {
        let mut state = self.state();
        state.trial = if next == Health::Healthy { None } else { state.trial.or(Some(Trial::Failed)) };
        drop(state);
        self.becomes(next);
    }

    /// A probe showed that the device answers, and no more: it has not the key that it was to be tried with.
    pub(super) fn answers(&self) {
        let mut state = self.state();
        state.trial = state.trial.filter(|trial| *trial == Trial::Released);
        drop(state);
        self.becomes(Health::Healthy);
    }

    /// What an act showed. Quarantine and waiting are left by a person only, a trial by a probe.
    pub(super) fn becomes(&self, next: Health) {
        let mut state = self.state();
        if next == Health::Healthy {
            state.answered = Some(Instant::now());
            if state.trial.is_some() || state.overdue().is_some() {
                return;
            }
        }
        if state.health == next || matches!(state.health, Health::Quarantined { .. }) {
            return;
        }
        if !matches!(state.health, Health::Waiting { .. }) || matches!(next, Health::Quarantined { .. }) {
            self.put(&mut state, next);
        }
    }

    /// How it stands is yet to be told to its owner.
    pub(super) fn tell_again(&self) {
        self.lock().told = false;
        self.changed.store(true, Ordering::Release);
    }

    pub(super) fn put(&self, state: &mut State, next: Health) {
        if state.health.name() != next.name() {
            (state.since, state.told) = (Instant::now(), false);
            self.changed.store(true, Ordering::Release);
        }
        state.health = next;
    }
}

/// What a device's failure says of the device.
pub(super) fn verdict(failure: &Failure) -> Health {
    let why = failure.into();
    match failure.class {
        Class::Mismatch => Health::Quarantined { why },
        Class::Pin => Health::Waiting { why },
        _ => Health::Failed { why },
    }
}
