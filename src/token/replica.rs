//! Replicas: the same keys in several tokens, each behind a lane of its own; who serves, and who is left out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lane::{Lane, LaneError, Priority};
use super::{Class, Failure, Token};

/// Longest act of a probe: generous, since nobody waits for it.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// How a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Serves.
    Healthy,
    /// Failed; used only if no other is left, until a probe succeeds.
    Failed {
        /// What it answered.
        why: String,
    },
    /// Its key or its signature was not the recorded one: not used until a person releases it.
    Quarantined {
        /// What was seen.
        why: String,
    },
}

/// Tokens that hold the same keys. Only devices can make such: vendor cloning, or one device reached twice.
pub struct Replicas {
    members: Vec<Member>,
}

struct Member {
    name: String,
    lane: Lane,
    health: Mutex<Health>,
}

impl Member {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Quarantine is left by a person only.
    fn becomes(&self, next: Health) {
        let mut health = self.health();
        if !matches!(*health, Health::Quarantined { .. }) {
            *health = next;
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
    /// Takes lanes with the names of their tokens, at least one.
    #[must_use]
    pub fn new(members: Vec<(String, Lane)>) -> Self {
        let member = |(name, lane)| Member { name, lane, health: Mutex::new(Health::Healthy) };
        Replicas { members: members.into_iter().map(member).collect() }
    }

    /// Has the least busy healthy replica do an act that changes nothing in the token, and another one if that fails
    /// and time is left. A replica that fails is passed over until a probe of [`Replicas::tend`] succeeds; one whose
    /// key is not the recorded one is quarantined.
    ///
    /// # Errors
    /// The last replica's [`LaneError`].
    pub async fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        deadline: Instant,
        act: impl Fn(&dyn Token) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<Served<T>, LaneError> {
        let mut last = LaneError::Closed;
        for member in self.in_order() {
            match member.lane.run_as(priority, deadline, act.clone()).await {
                Ok(value) => {
                    member.becomes(Health::Healthy);
                    return Ok(Served { value, replica: member.name.clone() });
                }
                // The input's fault, or the caller's time is over: another replica would say the same.
                Err(LaneError::Failed(f)) if matches!(f.class, Class::Caller | Class::Unsupported) => {
                    return Err(LaneError::Failed(f));
                }
                Err(LaneError::Expired) => return Err(LaneError::Expired),
                Err(LaneError::Late) => {
                    member.becomes(Health::Failed { why: "no answer before a deadline".to_owned() });
                    return Err(LaneError::Late);
                }
                Err(LaneError::Failed(f)) => {
                    match f.class {
                        Class::Mismatch => member.becomes(Health::Quarantined { why: f.to_string() }),
                        // One key that is missing says nothing of the others.
                        Class::KeyMissing => {}
                        _ => member.becomes(Health::Failed { why: f.to_string() }),
                    }
                    last = LaneError::Failed(f);
                }
                Err(busy) => last = busy,
            }
        }
        Err(last)
    }

    /// Healthy ones first, the least busy of them at the head; then failed ones; none that is quarantined.
    fn in_order(&self) -> Vec<&Member> {
        let rank = |member: &&Member| match *member.health() {
            Health::Healthy => Some((0, member.lane.busy())),
            Health::Failed { .. } => Some((1, member.lane.busy())),
            Health::Quarantined { .. } => None,
        };
        let mut ranked: Vec<_> = self.members.iter().filter_map(|m| rank(&m).map(|rank| (rank, m))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, member)| member).collect()
    }

    /// Leaves a replica out until a person releases it: its signature did not verify.
    pub fn quarantine(&self, replica: &str, why: &str) {
        for member in self.members.iter().filter(|m| m.name == replica) {
            member.becomes(Health::Quarantined { why: why.to_owned() });
        }
    }

    /// Ends a quarantine, on a person's word. The replica is on trial: it serves first when a probe succeeded.
    /// `false` if no replica of this name is quarantined.
    pub fn release(&self, replica: &str) -> bool {
        let Some(member) = self.members.iter().find(|m| m.name == replica) else { return false };
        let mut health = member.health();
        let was = matches!(*health, Health::Quarantined { .. });
        if was {
            *health = Health::Failed { why: "released from quarantine; not yet probed".to_owned() };
        }
        was
    }

    /// Names and health, in the order of configuration.
    #[must_use]
    pub fn status(&self) -> Vec<(String, Health)> {
        self.members.iter().map(|m| (m.name.clone(), m.health().clone())).collect()
    }

    /// Probes failed replicas every `interval`, for ever, one act at a time each; spawned by the owner. The act uses
    /// a key of role `probe` only, or none.
    pub async fn tend(
        self: Arc<Self>,
        interval: Duration,
        probe: impl Fn(&dyn Token) -> Result<(), Failure> + Clone + Send + 'static,
    ) {
        loop {
            tokio::time::sleep(interval).await;
            for member in &self.members {
                if matches!(*member.health(), Health::Failed { .. }) {
                    let deadline = Instant::now() + PROBE_MAX;
                    if member.lane.run_as(Priority::Bulk, deadline, probe.clone()).await.is_ok() {
                        member.becomes(Health::Healthy);
                    }
                }
            }
        }
    }

    /// Closes all lanes. Blocks until they are drained.
    pub fn close(&self) {
        self.members.iter().for_each(|member| member.lane.close());
    }
}
