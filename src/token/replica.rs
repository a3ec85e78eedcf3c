//! Replicas: the same keys in several tokens, each behind a lane of its own; who serves, and who is left out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

pub use super::health::{Health, Why};
use super::health::{Standing, State, Trial, verdict};
use super::lane::{Lane, LaneError, Priority};
use super::{Allowance, Class, Failure, Token};

/// Shortest time for a probe: generous, since nobody waits for it.
const PROBE_MIN: Duration = Duration::from_secs(5);
/// Between two probes of a replica that serves, at least: so many may be brought about by who sends bad ciphertexts.
const PROBES_APART: Duration = Duration::from_secs(5);
/// What an act may take beyond the device's own time for it: the way to its host and back, and the end of one that hangs.
const MARGIN: Duration = Duration::from_millis(500);
/// How often to look whether all acts have ended.
const SETTLING: Duration = Duration::from_millis(10);

/// Why one serves no more than before when its quarantine ended.
const RELEASED: &str = "released from quarantine; not yet probed";

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
            self.standing.tell_again();
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
        let changed = Arc::new(AtomicBool::new(false));
        let member = |(name, lane, call_max)| {
            let standing = Arc::new(Standing::new(Arc::clone(&changed)));
            Member { name, lane, call_max, standing }
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
    /// The last replica's [`LaneError`]; that a key is missing only if every replica says so. If some could not be asked,
    /// because they wait or are quarantined, [`LaneError::Unseen`]: one of them may have it. What one replica may have done
    /// stays open, whatever the next one says.
    pub async fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        deadline: Instant,
        act: impl Fn(&dyn Token) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<Served<T>, LaneError> {
        let members = self.in_order();
        let healthy = members.iter().filter(|member| member.state().health == Health::Healthy).count();
        let mut last = None;
        for (place, member) in members.iter().enumerate() {
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
                let done = standing.watch(max, |given| allowing(token, Allowance { until, again, given }, act));
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
        let failure = match last.unwrap_or(LaneError::Closed) {
            LaneError::Failed(failure) if failure.class == Class::KeyMissing => failure,
            last => return Err(last),
        };
        let is_asked = |member: &Member| members.iter().any(|asked| asked.name == member.name);
        let unasked: Vec<&str> = self.members.iter().filter(|m| !is_asked(m)).map(|m| m.name.as_str()).collect();
        Err(match unasked.is_empty() {
            true => LaneError::Failed(failure),
            false => LaneError::Unseen { failure, unasked: unasked.join(", ") },
        })
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
        let judged = move |token: &dyn Token| {
            let allowance = Allowance { until: deadline, again: true, given: &|_| {} };
            allowing(token, allowance, act).inspect_err(|f| standing.judge(f))
        };
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
    /// `false` if no replica of this name is quarantined, or its owner has not been told so: that stays until it has.
    pub fn release(&self, replica: &str) -> bool {
        let Some(member) = self.member(replica) else { return false };
        let mut state = member.state();
        let was = state.told && matches!(state.health, Health::Quarantined { .. });
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

    /// Whether [`Replicas::changes`] has anything to tell.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.changed.load(Ordering::Acquire)
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
        let watched = move |token: &dyn Token| {
            standing.watch(max, |given| allowing(token, Allowance { until, again: false, given }, act))
        };
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
            Err(LaneError::Failed(f)) if !f.is_too_late() => member.standing.tried(verdict(&f)),
            // It has too much to do; nothing says that it does not do it. What takes too long is overdue.
            Err(_) => {
                member.state().doubted |= doubted;
            }
        }
        lacks_key
    }

    /// Waits until none of them has an act to do, at most as long as an act may take: what callers that gave up have left
    /// under way shows how a device stands, too.
    pub async fn settle(&self) {
        let longest = self.members.iter().map(|member| member.call_max).max().unwrap_or_default() + MARGIN;
        let end = Instant::now() + longest;
        while self.members.iter().any(|member| member.lane.busy() > 0) && Instant::now() < end {
            tokio::time::sleep(SETTLING).await;
        }
    }

    /// Closes all lanes. Blocks until they are drained.
    pub fn close(&self) {
        self.members.iter().for_each(|member| member.lane.close());
    }
}

/// Does an act with a token as one caller uses it.
fn allowing<T>(
    token: &dyn Token,
    allowance: Allowance<'_>,
    act: impl FnOnce(&dyn Token) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match token.allowing(allowance) {
        Some(token) => act(&*token),
        None => {
            (allowance.given)(true);
            act(token)
        }
    }
}
