//! Replicas: the same keys in several tokens, each behind a lane of its own; who serves, and who is left out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lane::{Lane, LaneError, Priority};
use super::{Allowance, Class, Failure, Token};
use crate::error::{Answer, Error};

/// Shortest time for a probe: generous, since nobody waits for it.
const PROBE_MIN: Duration = Duration::from_secs(5);
/// Between two probes of a replica that serves, at least: so many may be brought about by who sends bad ciphertexts.
const PROBES_APART: Duration = Duration::from_secs(5);
/// What an act may take beyond the device's own time for it: the way to its host and back, and the end of one that hangs.
const MARGIN: Duration = Duration::from_millis(500);

/// Why one serves no more than before when its quarantine ended.
const RELEASED: &str = "released from quarantine; not yet probed";

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

/// Tokens that hold the same keys. Only devices can make such: vendor cloning, or one device reached twice.
pub struct Replicas {
    members: Vec<Member>,
    /// Some member stands otherwise than the owner was told.
    changed: Arc<AtomicBool>,
}

struct Member {
    name: String,
    lane: Lane,
    /// Longest time of a signature or decryption.
    call_max: Duration,
    standing: Arc<Standing>,
}

/// How a replica stands. Its acts know it too: what the device said counts, whether or not a caller still waits for it.
struct Standing {
    state: Mutex<State>,
    changed: Arc<AtomicBool>,
}

struct State {
    health: Health,
    since: Instant,
    /// When it last did what it was asked.
    answered: Option<Instant>,
    /// When a probe last ended, well or not.
    probed: Option<Instant>,
    /// A ciphertext did not decrypt, and only a probe can tell whose fault that is.
    doubted: bool,
    trial: Option<Trial>,
    told: bool,
    /// When each act that runs must have ended.
    due: Vec<Instant>,
}

/// What only a probe that succeeds ends, whatever else the replica does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// A probe failed.
    Failed,
    /// A quarantine was ended.
    Released,
}

/// How one replica does.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub health: Health,
    /// For how long.
    pub since: Instant,
    /// When it last did what it was asked.
    pub answered: Option<Instant>,
    /// When a probe of it last ended, well or not.
    pub probed: Option<Instant>,
    /// Acts that wait for it.
    pub waiting: usize,
    /// Acts that wait for it or run.
    pub busy: usize,
}

/// An act that runs, and when it must have ended.
struct Running {
    standing: Arc<Standing>,
    due: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.standing.lock();
        if let Some(place) = state.due.iter().position(|due| *due == self.due) {
            state.due.swap_remove(place);
        }
    }
}

impl State {
    fn overdue(&self) -> bool {
        let now = Instant::now();
        self.due.iter().any(|due| *due <= now)
    }
}

impl Standing {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands now. One whose act is overdue has failed: nobody waits until that act ends.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.health == Health::Healthy && state.overdue() {
            let why = "an act takes longer than its profile allows, or its host longer to open the device".into();
            self.put(&mut state, Health::Failed { why });
        }
        state
    }

    /// Has the device do an act that must have ended within this time.
    fn watch<T>(self: &Arc<Self>, max: Duration, act: impl FnOnce() -> T) -> T {
        let due = Instant::now() + max;
        self.lock().due.push(due);
        let _running = Running { standing: Arc::clone(self), due };
        act()
    }

    /// What an act's end says of the device: nothing, if the input did not fit or it has not this one key.
    fn judge(&self, failure: &Failure) {
        match failure.class {
            Class::Caller | Class::Unsupported | Class::KeyMissing => {}
            Class::Undecided => self.state().doubted = true,
            _ => self.becomes(verdict(failure)),
        }
    }

    /// What a probe showed.
    fn tried(&self, next: Health) {
        let mut state = self.state();
        state.trial = if next == Health::Healthy { None } else { state.trial.or(Some(Trial::Failed)) };
        drop(state);
        self.becomes(next);
    }

    /// A probe showed that the device answers, and no more: it has not the key that it was to be tried with.
    fn answers(&self) {
        let mut state = self.state();
        state.trial = state.trial.filter(|trial| *trial == Trial::Released);
        drop(state);
        self.becomes(Health::Healthy);
    }

    /// What an act showed. Quarantine and waiting are left by a person only, a trial by a probe.
    fn becomes(&self, next: Health) {
        let mut state = self.state();
        if next == Health::Healthy {
            state.answered = Some(Instant::now());
            if state.trial.is_some() || state.overdue() {
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

    fn put(&self, state: &mut State, next: Health) {
        if state.health.name() != next.name() {
            (state.since, state.told) = (Instant::now(), false);
            self.changed.store(true, Ordering::Release);
        }
        state.health = next;
    }
}

impl Member {
    fn state(&self) -> MutexGuard<'_, State> {
        self.standing.state()
    }

    fn status(&self) -> Status {
        let state = self.state();
        Status {
            name: self.name.clone(),
            health: state.health.clone(),
            since: state.since,
            answered: state.answered,
            probed: state.probed,
            waiting: self.lane.waiting(),
            busy: self.lane.busy(),
        }
    }
}

/// How a replica has come to stand. Who drops this before it is kept, or is dropped with it, has it told again.
pub struct Change {
    /// Name of the replica.
    pub replica: String,
    /// How it stands.
    pub health: Health,
    standing: Arc<Standing>,
    kept: bool,
}

impl Change {
    /// It is kept, and need not be told again.
    pub fn kept(mut self) {
        self.kept = true;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.kept {
            self.standing.lock().told = false;
            self.standing.changed.store(true, Ordering::Release);
        }
    }
}

/// A result, and the replica that gave it: who verifies can say whose it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Served<T> {
    /// What the act gave.
    pub value: T,
    /// Name of the replica.
    pub replica: String,
}

impl Replicas {
    /// Takes lanes with the names of their tokens, and the longest time of a signature or decryption by their profiles;
    /// at least one.
    #[must_use]
    pub fn new(members: Vec<(String, Lane, Duration)>) -> Self {
        let (now, changed) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let member = |(name, lane, call_max)| {
            let state = State {
                health: Health::Healthy,
                since: now,
                answered: None,
                probed: None,
                doubted: false,
                trial: None,
                told: true,
                due: Vec::new(),
            };
            let standing = Standing { state: Mutex::new(state), changed: Arc::clone(&changed) };
            Member { name, lane, call_max, standing: Arc::new(standing) }
        };
        Replicas { members: members.into_iter().map(member).collect(), changed: Arc::clone(&changed) }
    }

    /// Has the least busy healthy replica do an act that changes nothing in the token, and another one if that fails
    /// and time is left. A replica that fails is passed over until a probe of [`Replicas::probe`] succeeds; one whose
    /// key is not the recorded one is quarantined; one whose PIN was refused waits. While other healthy ones are left, one
    /// that says nothing costs its part of the time, at most the wait for it and the time of its profile, and nothing is
    /// made once more behind it. That a caller's time was short says nothing of a replica; that an act is overdue does, at
    /// once and for all callers.
    ///
    /// # Errors
    /// The last replica's [`LaneError`]; that a key is missing only if every replica that can be asked says so: not those
    /// that wait or are quarantined. What one replica may have done stays open, whatever the next one says.
    pub async fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        deadline: Instant,
        act: impl Fn(&dyn Token) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<Served<T>, LaneError> {
        let members = self.in_order();
        let healthy = members.iter().filter(|member| member.state().health == Health::Healthy).count();
        let mut last = None;
        for (place, member) in members.into_iter().enumerate() {
            let left = u32::try_from(healthy.saturating_sub(place)).unwrap_or(1).max(1);
            let now = Instant::now();
            let (again, max) = (left == 1, member.call_max + MARGIN);
            let until = if again {
                deadline
            } else {
                let part = deadline.saturating_duration_since(now) / left;
                now + part.min(member.lane.expected_wait(priority) + max)
            };
            let (act, standing) = (act.clone(), Arc::clone(&member.standing));
            let judged = move |token: &dyn Token| {
                let done = standing.watch(max, || allowing(token, Allowance { until, again }, act));
                done.as_ref().map_or_else(|f| standing.judge(f), |_| standing.becomes(Health::Healthy));
                done
            };
            match member.lane.run_as(priority, until, judged).await {
                Ok(value) => return Ok(Served { value, replica: member.name.clone() }),
                // One key that is missing says nothing of the others, and another replica may have it.
                Err(LaneError::Failed(f)) if f.class == Class::KeyMissing => {
                    last.get_or_insert(LaneError::Failed(f));
                }
                Err(fault) => {
                    // The input's fault, or the caller's time is over: another replica would say the same.
                    let of_the_input =
                        |f: &Failure| matches!(f.class, Class::Caller | Class::Undecided | Class::Unsupported);
                    let end = matches!(&fault, LaneError::Failed(f) if of_the_input(f));
                    let fault = fault.after(last);
                    if end || Instant::now() >= deadline {
                        return Err(fault);
                    }
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or(LaneError::Closed))
    }

    /// Has one replica do an act, whatever became of it before: to log it in, or to make a key, which is made in one.
    ///
    /// # Errors
    /// As [`Lane::run_as`]; [`LaneError::Closed`] if there is no such replica.
    pub async fn run_on<T: Send + 'static>(
        &self,
        replica: &str,
        deadline: Instant,
        act: impl FnOnce(&dyn Token) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LaneError> {
        let Some(member) = self.member(replica) else { return Err(LaneError::Closed) };
        let standing = Arc::clone(&member.standing);
        let allowance = Allowance { until: deadline, again: true };
        let judged = move |token: &dyn Token| allowing(token, allowance, act).inspect_err(|f| standing.judge(f));
        member.lane.run_as(Priority::Upkeep, deadline, judged).await
    }

    /// Healthy ones first, the least busy of them at the head; then failed ones; none that only a person brings back.
    fn in_order(&self) -> Vec<&Member> {
        let rank = |member: &&Member| match member.state().health {
            Health::Healthy => Some((0, member.lane.busy())),
            Health::Failed { .. } => Some((1, member.lane.busy())),
            Health::Waiting { .. } | Health::Quarantined { .. } => None,
        };
        let mut ranked: Vec<_> = self.members.iter().filter_map(|m| rank(&m).map(|rank| (rank, m))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, member)| member).collect()
    }

    fn member(&self, replica: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == replica)
    }

    /// Leaves a replica out until a person releases it: its signature did not verify.
    pub fn quarantine(&self, replica: &str, why: &str) {
        if let Some(member) = self.member(replica) {
            member.standing.becomes(Health::Quarantined { why: why.into() });
        }
    }

    /// What the owner knows of a replica, who is not told it again: at the start, and after a login. A quarantine stays,
    /// and so does the trial of one that was released from it.
    pub fn assume(&self, replica: &str, health: Health) {
        if let Some(member) = self.member(replica) {
            let mut state = member.state();
            if !matches!(state.health, Health::Quarantined { .. }) {
                let released = state.trial == Some(Trial::Released);
                state.trial = released.then_some(Trial::Released);
                let health = match health {
                    Health::Healthy if released => Health::Failed { why: RELEASED.into() },
                    health => health,
                };
                member.standing.put(&mut state, health);
                state.told = true;
            }
        }
    }

    /// Ends a quarantine, on a person's word. The replica is on trial: it serves first when a probe succeeded.
    /// `false` if no replica of this name is quarantined.
    pub fn release(&self, replica: &str) -> bool {
        let Some(member) = self.member(replica) else { return false };
        let mut state = member.state();
        let was = matches!(state.health, Health::Quarantined { .. });
        if was {
            state.trial = Some(Trial::Released);
            member.standing.put(&mut state, Health::Failed { why: RELEASED.into() });
        }
        was
    }

    /// Names and health, in the order of configuration.
    #[must_use]
    pub fn status(&self) -> Vec<(String, Health)> {
        self.members.iter().map(|m| (m.name.clone(), m.state().health.clone())).collect()
    }

    /// All that is known of each, in the order of configuration.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        self.members.iter().map(Member::status).collect()
    }

    /// Whether one of them serves.
    #[must_use]
    pub fn serve(&self) -> bool {
        self.members.iter().any(|member| member.state().health == Health::Healthy)
    }

    /// Those that stand otherwise than the owner has kept, each told to one who asks at a time.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for member in &self.members {
            let mut state = member.state();
            if !state.told {
                state.told = true;
                let standing = Arc::clone(&member.standing);
                changes.push(Change {
                    replica: member.name.clone(),
                    health: state.health.clone(),
                    standing,
                    kept: false,
                });
            }
        }
        changes
    }

    /// Tries a replica out if it failed, or if it serves and did nothing for `idle`, or if a ciphertext did not decrypt at
    /// it, though for that not again within five seconds. The act uses a key of role `probe` only, or none. `true` if the
    /// replica does not show that key.
    pub async fn probe(
        &self,
        replica: &str,
        idle: Duration,
        act: impl FnOnce(&dyn Token) -> Result<(), Failure> + Send + 'static,
    ) -> bool {
        let Some(member) = self.member(replica) else { return false };
        let doubted = {
            let mut state = member.state();
            let rested = state.answered.is_none_or(|answered| answered.elapsed() >= idle);
            let doubted = state.doubted && state.probed.is_none_or(|probed| probed.elapsed() >= PROBES_APART);
            let due =
                matches!(state.health, Health::Failed { .. }) || state.health == Health::Healthy && (rested || doubted);
            if !due {
                return false;
            }
            // What is doubted from here on needs another one.
            std::mem::take(&mut state.doubted)
        };
        // It signs and decrypts.
        let (standing, max) = (Arc::clone(&member.standing), member.call_max * 2 + MARGIN);
        let until = Instant::now() + PROBE_MIN.max(member.lane.expected_wait(Priority::Upkeep) + max);
        let watched =
            move |token: &dyn Token| standing.watch(max, || allowing(token, Allowance { until, again: false }, act));
        let done = member.lane.run_as(Priority::Upkeep, until, watched).await;
        member.state().probed = Some(Instant::now());
        let lacks_key = matches!(&done, Err(LaneError::Failed(f)) if f.class == Class::KeyMissing);
        match done {
            Ok(()) => member.standing.tried(Health::Healthy),
            // That one key is missing says nothing of the device: what else it does counts. It is passed over only for
            // another one, which has that key.
            Err(LaneError::Failed(f)) if f.class == Class::KeyMissing => {
                let is_other = |other: &&Member| other.name != member.name;
                if self.members.iter().filter(is_other).any(|other| other.state().health == Health::Healthy) {
                    let why = "it does not show the probe key, which another replica serves with".into();
                    member.standing.becomes(Health::Failed { why });
                } else {
                    member.standing.answers();
                }
            }
            Err(LaneError::Failed(f)) => member.standing.tried(verdict(&f)),
            // It has too much to do; nothing says that it does not do it. What takes too long is overdue.
            Err(LaneError::Busy { .. } | LaneError::Expired | LaneError::Late | LaneError::Closed) => {
                member.state().doubted |= doubted;
            }
        }
        lacks_key
    }

    /// Closes all lanes. Blocks until they are drained.
    pub fn close(&self) {
        self.members.iter().for_each(|member| member.lane.close());
    }
}

/// Does an act with a token as one caller uses it.
fn allowing<T>(
    token: &dyn Token,
    allowance: Allowance,
    act: impl FnOnce(&dyn Token) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match token.allowing(allowance) {
        Some(token) => act(&*token),
        None => act(token),
    }
}

/// What a device's failure says of the device.
fn verdict(failure: &Failure) -> Health {
    let why = failure.into();
    match failure.class {
        Class::Mismatch => Health::Quarantined { why },
        Class::Pin => Health::Waiting { why },
        _ => Health::Failed { why },
    }
}
