//! A token in a process of its own: a module that hangs, crashes or answers nonsense is killed and started again.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use self::wire::{Answer, Call, Channel, Hello, Opened};
use super::back_off::BackOff;
use super::profile::{Profile, require_directory};
use super::{Binding, Class, Failure, Outcome, TOO_LATE, refusal, unopened};
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

mod asked;
mod serve;
mod wire;

pub use serve::serve;

/// What failures are of in which no device said anything.
const HOST: &str = "token host";
/// So many hosts may be held by their driver beyond their end before no more are started.
const HELD_MAX: usize = 2;
/// Longest wait for a killed host to end, which takes a moment on a busy machine.
const END_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a host to open its token.
const OPEN_MAX: Duration = Duration::from_secs(15);

/// The program that is a token host.
#[derive(Clone, Debug)]
pub struct HostProgram {
    /// Its file; this program's own.
    pub path: PathBuf,
    /// The arguments that make it a token host.
    pub arguments: Vec<OsString>,
}

impl HostProgram {
    /// This program, as `keyward token-host`. The same file even after an upgrade has replaced it on disk.
    #[must_use]
    pub fn this() -> Self {
        HostProgram { path: PathBuf::from("/proc/self/exe"), arguments: vec![OsString::from("token-host")] }
    }
}

/// Gives the PIN that a login is to try, as it is now.
pub type FreshPin<'a> = &'a dyn Fn() -> Result<Arc<Pin>>;

/// Tries a PIN. It leaves this process within this and at no other time.
pub type Login<'a> = &'a mut dyn FnMut(&Pin) -> Result<()>;

/// What is done around every login, the first and those after a loss alike: it asks for the PIN when the login may be made,
/// makes that at most once, and says what came of it.
pub type AroundLogin = Box<dyn Fn(FreshPin<'_>, Login<'_>) -> Result<()> + Send + Sync>;

/// Gives a device's PIN from where it is kept, as it is there now.
pub type ReadPin = Box<dyn Fn() -> Result<Pin> + Send + Sync>;

/// A token behind a child process. Same contract as a token in this process; see [`Token`].
///
/// A host logs in once in its life. One that has lost its login is killed, and the next one finds the token anew.
pub struct HostToken {
    program: HostProgram,
    binding: Binding,
    profile: Profile,
    around_login: AroundLogin,
    /// Asked at each login, so that a PIN that was changed there and at the device costs no wrong try. Without it, the PIN
    /// that was given last is kept.
    read_pin: Option<ReadPin>,
    state: Mutex<State>,
    returned: Condvar,
    /// Each host that has not ended holds it, killed or not.
    living: Arc<()>,
}

#[derive(Default)]
struct State {
    /// What every host gets when it asks, if no source is asked for it.
    pin: Option<Arc<Pin>>,
    host: Option<Host>,
    /// A thread starts a host; the others wait until it has.
    starting: bool,
    /// The host that is being started is within what is done around its login.
    logging_in: bool,
    idle: Vec<Channel>,
    /// Counts the hosts: a channel of an earlier one is not given back.
    generation: u64,
    /// The present host has done what it was asked: if it goes down now, it is started again at once.
    served: bool,
    back_off: BackOff,
    /// Why there is no host, if there is none.
    gone: Option<Failure>,
    pin_refused: Option<Failure>,
}

/// A child process; its end of `control` closing tells it to go.
struct Host {
    pid: u32,
    /// Names this child and no other one, also when it has ended and its number is given out again.
    handle: OwnedFd,
    ended: Arc<AtomicBool>,
    control: Channel,
}

impl Host {
    /// Takes a child over. A thread waits for its end, however it comes and whether or not anybody asks for it by then:
    /// that may take as long as a driver holds it.
    fn of(mut child: Child, control: Channel, living: Arc<()>) -> io::Result<Host> {
        let opened = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let handle = opened.inspect_err(|_| {
            let _ = child.kill().and_then(|()| child.wait());
        })?;
        let (pid, ended) = (child.id(), Arc::new(AtomicBool::new(false)));
        let host = Host { pid, handle, ended: Arc::clone(&ended), control };
        std::thread::Builder::new().name("host-reaper".to_owned()).spawn(move || {
            let _ = child.wait();
            ended.store(true, Ordering::Release);
            drop(living);
        })?;
        Ok(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl HostToken {
    /// Starts a host for a token and waits until it has opened it.
    ///
    /// # Errors
    /// As [`HostToken::login`].
    pub fn start(program: HostProgram, binding: &Binding, profile: &Profile, pin: Pin) -> Result<HostToken> {
        let token = HostToken::waiting(program, binding, profile);
        token.login(Some(pin))?;
        Ok(token)
    }

    /// A token that has no PIN yet: it refuses every call until [`HostToken::login`].
    #[must_use]
    pub fn waiting(program: HostProgram, binding: &Binding, profile: &Profile) -> HostToken {
        let state = State { pin_refused: Some(not_logged_in()), ..State::default() };
        HostToken {
            program,
            binding: binding.clone(),
            profile: profile.clone(),
            around_login: Box::new(|fresh, login| login(&*fresh()?)),
            read_pin: None,
            state: Mutex::new(state),
            returned: Condvar::new(),
            living: Arc::default(),
        }
    }

    /// The same token, with this done around each of its logins.
    #[must_use]
    pub fn around_logins(self, around_login: AroundLogin) -> HostToken {
        HostToken { around_login, ..self }
    }

    /// The same token, with its PIN read from this source at each of its logins.
    #[must_use]
    pub fn reading_pin(self, read_pin: ReadPin) -> HostToken {
        HostToken { read_pin: Some(read_pin), ..self }
    }

    /// Ends the host if there is one, and starts one that tries this PIN, or that of its source, once. A device that
    /// cannot be reached, or a source that cannot be read, is tried again when the token is next called and its time has
    /// come; after a PIN was refused no other try is made.
    ///
    /// # Errors
    /// Those of [`super::open`], as the host says them; those of the PIN's source; `DATA_DIRECTORY` if the token's
    /// directory is not there; `TOKEN_UNAVAILABLE` if the host does not answer before it has the PIN, and `PIN_LATCHED`
    /// if it does not answer with it.
    pub fn login(&self, pin: Option<Pin>) -> Result<()> {
        let mut state = self.lock();
        while state.starting {
            state = self.wait(state);
        }
        state.idle.clear();
        if state.host.take().is_some() {
            state.generation += 1;
        }
        let pin = pin.map(Arc::new);
        if self.read_pin.is_none() {
            state.pin.clone_from(&pin);
        }
        state.pin_refused = None;
        let (mut state, done) = self.start_host(state, pin);
        if done.is_ok() {
            state.back_off.reset();
        }
        done
    }

    /// Whether it has a PIN that may be tried.
    #[must_use]
    pub fn has_pin(&self) -> bool {
        self.lock().pin_refused.is_none()
    }

    /// Whether a login is under way: its end says what stands of it.
    #[must_use]
    pub fn is_logging_in(&self) -> bool {
        self.lock().logging_in
    }

    /// Process id of the host now, if one runs: for tests and for `status`.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().host.as_ref().filter(|host| !host.ended.load(Ordering::Acquire)).map(|host| host.pid)
    }

    /// Longest time of a signature or decryption by its profile: after it the host is killed.
    #[must_use]
    pub fn call_max(&self) -> Duration {
        Duration::from_millis(self.profile.sessions.call_ms_max)
    }

    /// Hosts that were started before the present one.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.returned.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a host that logs in, once, with this PIN or that of the source. Nothing is locked meanwhile: who asks how
    /// the token stands is answered.
    fn start_host<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        pin: Option<Arc<Pin>>,
    ) -> (MutexGuard<'a, State>, Result<()>) {
        state.starting = true;
        drop(state);
        let spawned = catch_unwind(AssertUnwindSafe(|| self.spawn(pin)))
            .unwrap_or_else(|_| Err(Error::new(Reason::Internal, "the start of a token host broke off")));
        let mut state = self.lock();
        (state.starting, state.logging_in) = (false, false);
        let done = spawned.map(|(host, idle)| {
            (state.host, state.idle, state.served) = (Some(host), idle, false);
        });
        match &done {
            Err(e) if matches!(e.reason(), Reason::PinRefused | Reason::PinLatched) => {
                state.pin_refused = Some(unopened(Class::Pin, HOST, e));
            }
            Err(e) => {
                state.back_off.longer();
                state.gone = Some(unopened(Class::Token, HOST, e));
            }
            Ok(()) => {}
        }
        self.returned.notify_all();
        (state, done)
    }

    fn spawn(&self, pin: Option<Arc<Pin>>) -> Result<(Host, Vec<Channel>)> {
        let failed = |e: io::Error| Error::new(Reason::TokenUnavailable, "the token host cannot be started").detail(e);
        // This token holds it too. A process within a driver that hangs does not end before that does: more would help nobody.
        let end = Instant::now() + END_MAX;
        while Arc::strong_count(&self.living) > HELD_MAX && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if Arc::strong_count(&self.living) > HELD_MAX {
            let words = format!("{HELD_MAX} token hosts of {} were killed and do not end", self.binding.name);
            return Err(Error::new(Reason::TokenUnavailable, words)
                .hint("The device's driver holds them: bring device and driver back, or restart the machine."));
        }
        let (control, theirs) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.arguments).stdin(theirs).stdout(Stdio::null());
        if let Some(directory) = &self.binding.directory {
            require_directory(directory)?;
            command.envs(self.profile.environment(directory));
        }
        // A group of its own: an interrupt from the terminal is for the service, which then drains.
        let child = command.process_group(0).spawn().map_err(failed)?;
        // The command holds the child's end of the socket; while it is open here, the child's death shows no end.
        drop(command);
        let mut host = Host::of(child, control, Arc::clone(&self.living)).map_err(failed)?;
        let control = &mut host.control;
        let unopened = |e: io::Error| {
            Error::new(Reason::TokenUnavailable, format!("the token host of {} did not open it", self.binding.name))
                .detail(e)
        };
        let idle = self.introduce(control).map_err(unopened)?;
        let found = control.read_message::<Opened>().map_err(unopened)?;
        if !found.wants_pin {
            return found.into_result().map(|()| (host, idle));
        }
        let fresh = || match (&pin, &self.read_pin) {
            (Some(pin), _) => Ok(Arc::clone(pin)),
            (None, Some(read)) => read().map(Arc::new),
            (None, None) => Err(not_logged_in().into()),
        };
        self.lock().logging_in = true;
        (self.around_login)(&fresh, &mut |pin| {
            control.write_frame(pin.expose().as_bytes()).map_err(unopened)?;
            control.read_message::<Opened>().map_err(|e| self.unknown_login(&e))?.into_result()
        })?;
        Ok((host, idle))
    }

    /// The host had the PIN and said nothing more: the device may have refused it.
    fn unknown_login(&self, e: &io::Error) -> Error {
        let words =
            format!("the token host of {} ended within a login, which the device may have refused", self.binding.name);
        Error::new(Reason::PinLatched, words)
            .detail(e)
            .hint("Look at the token's counter of wrong PINs with the device's own tool, then clear the latch.")
    }

    /// Tells a fresh host what to open; gives the channels.
    fn introduce(&self, control: &mut Channel) -> io::Result<Vec<Channel>> {
        let sessions = u32::try_from(self.binding.sessions.max(1)).unwrap_or(1);
        let hello = Hello {
            binding: serde_json::to_string(&self.binding)?,
            profile: serde_json::to_string(&self.profile)?,
            sessions,
        };
        control.set_read_timeout(OPEN_MAX)?;
        control.set_write_timeout(OPEN_MAX)?;
        control.write_message(&hello)?;
        let mut channels = Vec::new();
        for _ in 0..sessions {
            let (ours, theirs) = Channel::pair()?;
            let descriptors = [theirs.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            rustix::net::sendmsg(control.socket(), &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
            channels.push(ours);
        }
        Ok(channels)
    }

    /// Borrows a channel, starting the host again if it is gone and its time has come; none after `until`.
    fn channel(&self, until: Instant) -> Result<(Channel, u64), Failure> {
        let too_late = || Err(refusal(Class::Token, HOST, TOO_LATE));
        let mut state = self.lock();
        loop {
            if let Some(refused) = &state.pin_refused {
                return Err(refused.clone());
            }
            if !state.starting && state.host.is_none() {
                if !state.back_off.is_over() {
                    let gone = state.gone.clone();
                    return Err(gone.unwrap_or_else(|| refusal(Class::Token, HOST, "it is tried again soon")));
                }
                let pin = state.pin.clone();
                let (started, done) = self.start_host(state, pin);
                state = started;
                if let Err(e) = done {
                    let class = if state.pin_refused.is_some() { Class::Pin } else { Class::Token };
                    return Err(unopened(class, HOST, &e));
                }
                if Instant::now() >= until {
                    return too_late();
                }
            }
            if !state.starting
                && let Some(channel) = state.idle.pop()
            {
                return Ok((channel, state.generation));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return too_late();
            }
            state = self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One call and its answer: asked before `until`, answered within the limit. A host that does not keep the limit, or
    /// says nonsense, is killed.
    fn call(
        &self,
        call: &Call,
        limit: Duration,
        until: Instant,
        given: &(dyn Fn(bool) + Sync),
    ) -> Result<Answer, Failure> {
        let (mut channel, generation) = self.channel(until)?;
        given(true);
        let asked = channel
            .set_read_timeout(limit)
            .and_then(|()| channel.write_message(call))
            .and_then(|()| channel.read_message::<Answer>())
            .and_then(|answer| if answer.fits(call) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) });
        match asked {
            Ok(mut answer) => {
                let failed = answer.failure.take().map(Failure::from);
                let mut state = self.lock();
                if state.generation == generation {
                    state.idle.push(channel);
                    // A host that says that it cannot is no better than one that says nothing.
                    let sick = |f: &Failure| matches!(f.class, Class::Session | Class::Token | Class::Module);
                    if !failed.as_ref().is_some_and(sick) {
                        state.served = true;
                        state.back_off.reset();
                    }
                }
                drop(state);
                self.returned.notify_one();
                match failed {
                    None => Ok(answer),
                    Some(failure) => {
                        if failure.class == Class::Module {
                            self.kill(generation, &failure);
                        }
                        Err(failure)
                    }
                }
            }
            Err(e) => {
                let why = match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        format!("no answer within {} ms; the token host was killed", limit.as_millis())
                    }
                    io::ErrorKind::InvalidData => "an answer that makes no sense; the token host was killed".to_owned(),
                    _ => "the token host ended".to_owned(),
                };
                let failure = failure(Class::Module, Outcome::Unknown, why);
                self.kill(generation, &failure);
                Err(failure)
            }
        }
    }

    /// Ends the host of this generation, if it is still the one.
    fn kill(&self, generation: u64, why: &Failure) {
        let mut state = self.lock();
        if state.generation == generation {
            state.gone = Some(Failure { class: Class::Token, outcome: Outcome::Refused, ..why.clone() });
            state.generation += 1;
            state.idle.clear();
            state.host = None;
            if !state.served {
                state.back_off.longer();
            }
        }
        drop(state);
        self.returned.notify_all();
    }
}

fn not_logged_in() -> Failure {
    refusal(Class::Pin, HOST, "it has not been logged in yet")
}

fn failure(class: Class, outcome: Outcome, code: String) -> Failure {
    Failure { class, outcome, function: HOST, code }
}
