//! One configured token: its replicas, how each is held, and what keeps one out of use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::caller::CallerNote;
use crate::custody::record::{Standing, standing_of};
use crate::error::{Error, Reason, Result};
use crate::key::Hash;
use crate::secret::Pin;
use crate::store::Store;
use crate::token::host::{HostToken, ReadPin};
use crate::token::lane::{Lane, LaneError};
use crate::token::replica::{Health, Replicas};
use crate::token::{Binding, Description, KeyRef, Token};

/// Jobs that may wait for one working session.
const QUEUE_PER_SESSION: usize = 64;
/// Longest wait for a device to be found, for other instances to end their logins to it, and for its own.
const LOGIN_MAX: Duration = Duration::from_secs(180);

/// One replica: which device it is, the child process that holds it, and who is asked for its PIN.
pub struct Device {
    /// Which device.
    pub binding: Binding,
    /// Another replica of this token has the same label and serial: only the binding's name tells them apart.
    pub twin: bool,
    /// Who holds it.
    pub host: Arc<HostToken>,
    /// Asked for its PIN, if it is one that a person types. Any other is read by who holds it.
    pub ask_pin: Option<ReadPin>,
}

/// A replica within its slot.
pub(super) struct Member {
    pub(super) device: Device,
    description: Mutex<Option<Description>>,
    /// Whether the records said last that it is quarantined.
    quarantined: AtomicBool,
    /// Held by who logs it in on a person's word.
    pub(super) logging_in: tokio::sync::Mutex<()>,
}

impl Member {
    /// Where it is recorded that its PIN is latched, or that it is quarantined.
    pub(super) fn standing(&self) -> String {
        let Binding { serial, label, name, .. } = &self.device.binding;
        standing_of(serial, label, self.device.twin.then_some(name))
    }

    /// What the device last said of itself.
    pub(super) fn description(&self) -> Option<Description> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Description>> {
        self.description.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the replica.
    pub(super) fn name(&self) -> &str {
        &self.device.binding.name
    }
}

/// One configured token.
pub struct Slot {
    pub(super) name: String,
    /// The hash that it does OAEP with.
    pub(super) oaep: Hash,
    pub(super) replicas: Arc<Replicas>,
    pub(super) members: Vec<Member>,
    /// Whether a key of custody is in it: only then does the service need it.
    pub(super) needed: AtomicBool,
    /// The key that it is tried out with.
    pub(super) probe: Mutex<Option<Arc<KeyRef>>>,
    /// Held by who looks for that key or has it made.
    pub(super) making_probe: tokio::sync::Mutex<()>,
    /// Held by who records how its devices stand.
    recording: tokio::sync::Mutex<()>,
}

/// Held by who records how the devices of a token stand.
type Recording<'a> = tokio::sync::MutexGuard<'a, ()>;

impl Slot {
    /// Puts a token together and logs in to each of its devices, once, in all of them at once. A device that cannot be
    /// used does not keep the others from being used; [`Slot::barred`] says whether one is left.
    ///
    /// # Errors
    /// `INTERNAL` if the system gives no threads; those of the store, which knows what is latched or quarantined.
    pub async fn open(store: &dyn Store, name: &str, oaep: Hash, devices: Vec<Device>) -> Result<(Self, Vec<Error>)> {
        let lane = |device: &Device| -> Result<(String, Lane, Duration)> {
            let sessions = device.binding.sessions;
            let token: Arc<dyn Token> = Arc::<HostToken>::clone(&device.host);
            let lane = Lane::start(token, sessions, sessions * QUEUE_PER_SESSION)?;
            Ok((device.binding.name.clone(), lane, device.host.call_max()))
        };
        let lanes = devices.iter().map(lane).collect::<Result<_>>()?;
        let member = |device| Member {
            device,
            description: Mutex::default(),
            quarantined: AtomicBool::new(false),
            logging_in: tokio::sync::Mutex::default(),
        };
        let slot = Slot {
            name: name.to_owned(),
            oaep,
            replicas: Arc::new(Replicas::new(lanes)),
            members: devices.into_iter().map(member).collect(),
            needed: AtomicBool::new(false),
            probe: Mutex::default(),
            making_probe: tokio::sync::Mutex::default(),
            recording: tokio::sync::Mutex::default(),
        };
        let mut faults = Vec::new();
        for opened in join_all(slot.members.iter().map(|member| slot.open_one(store, member))).await {
            faults.extend(opened?);
        }
        // How they stand now is told by the faults.
        let _ = slot.replicas.changes();
        Ok((slot, faults))
    }

    /// Logs in to one device at the start, and gives what keeps it out of use.
    async fn open_one(&self, store: &dyn Store, member: &Member) -> Result<Vec<Error>> {
        let (standing, _) = Standing::of(store, &member.standing()).await?;
        let mut faults: Vec<Error> = self.log_in(member, None).await.err().into_iter().collect();
        if let Some(why) = standing.quarantined {
            faults.push(self.quarantined(member.name(), &why));
            self.heed(member, Some(&why));
        }
        Ok(faults)
    }

    /// One try to log in to a device, with this PIN or that of its source.
    pub(super) async fn log_in(&self, member: &Member, pin: Option<Pin>) -> Result<()> {
        let done = self.try_log_in(member, pin).await;
        let health = match &done {
            Ok(()) => Health::Healthy,
            // Without a PIN nothing can be tried again before a person logs it in.
            Err(fault) if !member.device.host.has_pin() => Health::Waiting { why: fault.into() },
            Err(fault) => Health::Failed { why: fault.into() },
        };
        self.replicas.assume(member.name(), health);
        done.map_err(|fault| self.worded(member.name(), fault))
    }

    async fn try_log_in(&self, member: &Member, pin: Option<Pin>) -> Result<()> {
        // What is done around the login looks for a latch: only there nobody else's login is under way.
        let pin = match (pin, &member.device.ask_pin) {
            (None, Some(ask)) => Some(ask()?),
            (pin, _) => pin,
        };
        let host = Arc::clone(&member.device.host);
        let name = member.name();
        self.replicas.run_on(name, Instant::now() + LOGIN_MAX, move |_| Ok(host.login(pin))).await??;
        let described = self.replicas.run_on(name, Instant::now() + LOGIN_MAX, |token| token.describe()).await?;
        *member.lock() = Some(described);
        Ok(())
    }

    /// A failure to log in, with what to do about it.
    fn worded(&self, replica: &str, fault: Error) -> Error {
        let name = self.label(replica);
        let fault = if fault.message().contains(&name) { fault } else { fault.while_doing(&name) };
        match fault.reason() {
            Reason::PinRefused | Reason::PinLatched => fault.hint(format!(
                "no PIN is tried twice; put the right one into its source, then: keyward token unlatch {replica}, and \
                 keyward token login {replica}"
            )),
            Reason::TokenWaiting => fault.hint(format!("keyward token login {replica}")),
            _ => fault,
        }
    }

    /// How people know a replica.
    pub(super) fn label(&self, replica: &str) -> String {
        if replica == self.name {
            format!("token {replica}")
        } else {
            format!("token {}, replica {replica}", self.name)
        }
    }

    pub(super) fn quarantined(&self, replica: &str, why: &str) -> Error {
        Error::new(Reason::TokenMismatch, format!("{} is quarantined: {why}", self.label(replica)))
            .hint(format!("find out what happened to the device; then: keyward token release {replica}"))
    }

    /// Why nothing can be asked of this token before a person does something, if that is so.
    ///
    /// # Errors
    /// `TOKEN_MISMATCH` or `TOKEN_WAITING`, with the next step.
    pub fn barred(&self) -> Result<()> {
        if self.serves() {
            return Ok(());
        }
        let mut why = None;
        for (replica, health) in self.replicas.status() {
            why = Some(match health {
                Health::Healthy | Health::Failed { .. } => return Ok(()),
                Health::Quarantined { why } => self.quarantined(&replica, &why.words),
                Health::Waiting { why } => {
                    let words = format!("{} waits to be logged in: {why}", self.label(&replica));
                    Error::new(Reason::TokenWaiting, words).hint(format!(
                        "put the right PIN into its source, then: keyward token unlatch {replica} if its PIN is \
                         latched, and keyward token login {replica}"
                    ))
                }
            });
        }
        why.map_or(Ok(()), Err)
    }

    /// Whether one of its replicas serves.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.replicas.serve()
    }

    /// The replica that keys are made in: the token's own binding, from which the device clones them to the others.
    pub(super) fn first(&self) -> &str {
        self.members.first().map_or("", Member::name)
    }

    /// What the first device that has said something said of itself.
    pub(super) fn description(&self) -> Option<Description> {
        self.members.iter().find_map(Member::description)
    }

    pub(super) fn probe_key(&self) -> Option<Arc<KeyRef>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_needed(&self) -> bool {
        self.needed.load(Ordering::Relaxed)
    }

    /// Heeds what the records say of a quarantine: another instance may have imposed it, or a person have ended it there.
    pub(super) fn heed(&self, member: &Member, quarantined: Option<&str>) {
        let before = member.quarantined.swap(quarantined.is_some(), Ordering::Relaxed);
        match quarantined {
            Some(why) if !before => {
                tracing::error!(why, "{} is quarantined, as the records say", self.label(member.name()));
                self.replicas.assume(member.name(), Health::Quarantined { why: why.into() });
            }
            // What this instance has found out itself, and has not recorded yet, stays.
            None if before => {
                self.replicas.release(member.name());
            }
            _ => {}
        }
    }

    /// Takes a replica out of use because what it gave is not what was recorded: at once, then durably.
    pub(super) async fn put_in_quarantine(&self, store: &dyn Store, replica: &str, why: &str) {
        self.replicas.quarantine(replica, why);
        self.keep_all(store).await;
    }

    /// Records what the replicas' failures mean for the next start: a quarantine, a refused PIN. Says all changes. What
    /// cannot be recorded is tried again, and so is what comes while somebody else records.
    pub(super) async fn keep_changes(&self, store: &dyn Store) {
        if self.replicas.has_changes()
            && let Ok(recording) = self.recording.try_lock()
        {
            self.keep_each(store, &recording).await;
        }
    }

    /// The same, once nobody else records.
    pub(super) async fn keep_all(&self, store: &dyn Store) {
        let recording = self.recording.lock().await;
        self.keep_each(store, &recording).await;
    }

    /// Records what was found until now, before a person clears what holds these replicas back. As long as that person holds
    /// what this gives, nobody else records.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn before_clearing(&self, store: &dyn Store, members: &[&Member]) -> Result<Recording<'_>> {
        let recording = self.recording.lock().await;
        let mut unrecorded = self.keep_each(store, &recording).await.into_iter();
        match unrecorded.find(|(replica, _)| members.iter().any(|member| member.name() == replica)) {
            Some((_, fault)) => Err(fault),
            None => Ok(recording),
        }
    }

    /// Gives the replicas of which something could not be recorded, and why.
    async fn keep_each(&self, store: &dyn Store, _: &Recording<'_>) -> Vec<(String, Error)> {
        let mut unrecorded = Vec::new();
        for change in self.replicas.changes() {
            let label = self.label(&change.replica);
            let Some(member) = self.members.iter().find(|member| member.name() == change.replica) else { continue };
            let why = change.health.why().to_owned();
            let kept = match change.health {
                Health::Healthy => {
                    tracing::info!("{label} serves");
                    Ok(())
                }
                Health::Failed { .. } => {
                    tracing::warn!(why, "{label} cannot be used now");
                    Ok(())
                }
                Health::Waiting { .. } => {
                    tracing::error!(why, "{label} waits until a person logs it in");
                    keep(store, &member.standing(), "latched", &why, |standing| &mut standing.latched).await
                }
                Health::Quarantined { .. } => {
                    tracing::error!(why, "{label} is quarantined");
                    keep(store, &member.standing(), "quarantined", &why, |standing| &mut standing.quarantined).await
                }
            };
            match kept {
                Ok(()) => change.kept(),
                Err(fault) => unrecorded.push((change.replica.clone(), fault)),
            }
        }
        unrecorded
    }

    /// A lane's failure in words.
    pub(super) fn failure(&self, fault: LaneError) -> Error {
        if let (LaneError::Closed, Err(barred)) = (&fault, self.barred()) {
            return barred;
        }
        let fault = Error::from(fault).while_doing(format!("token {}", self.name));
        // One that has a next step of its own says why, too.
        let is_bare = fault.reason() == Reason::TokenUnavailable && fault.next_step().is_none();
        if is_bare { self.unavailable(&fault).answered(fault.answer().cloned()) } else { fault }
    }

    /// It cannot be used now, and why that is so.
    pub(super) fn unavailable(&self, what: &dyn std::fmt::Display) -> Error {
        let failed = self.replicas.status().into_iter().find(|(_, health)| matches!(health, Health::Failed { .. }));
        let why = failed.map(|(_, health)| format!(": {}", health.why())).unwrap_or_default();
        Error::new(Reason::TokenUnavailable, format!("{what}{why}"))
            .hint("it is tried all the time, and serves when it is back; look at it: keyward token status")
    }
}

/// Records what holds a device back, unless that is recorded already.
async fn keep(
    store: &dyn Store,
    device: &str,
    state: &str,
    why: &str,
    hold: impl Fn(&mut Standing) -> &mut Option<String>,
) -> Result<()> {
    let change = |standing: &mut Standing, is_claimed: bool| {
        let held = hold(standing);
        let is_recorded = held.is_some() && !is_claimed;
        if !is_recorded {
            *held = Some(why.to_owned());
        }
        !is_recorded
    };
    let kept = Standing::change_if(store, device, state, &CallerNote::service(), why, change).await;
    if let Err(fault) = &kept {
        tracing::error!(device, state, ?fault, "the standing of a token cannot be recorded; it is tried again");
    }
    kept.map(drop)
}
