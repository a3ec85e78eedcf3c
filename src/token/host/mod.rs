//! A token in a process of its own: a module that hangs, crashes or answers nonsense is killed and started again.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use self::wire::{Answer, Call, Hello, Opened};
use super::back_off::BackOff;
use super::profile::Profile;
use super::{Binding, Class, Description, Failure, Generate, Generated, KeyRef, Outcome, Padding, Token};
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyId, PublicKey};
use crate::secret::{Pin, Secret};

mod serve;
mod wire;

pub use serve::serve;

/// Longest wait for a host to open its token.
const OPEN_MAX: Duration = Duration::from_secs(15);
/// Longest wait for a generation: slow devices take a minute for RSA-4096.
const GENERATE_MAX: Duration = Duration::from_secs(120);

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

/// A token behind a child process. Same contract as a token in this process; see [`Token`].
pub struct HostToken {
    program: HostProgram,
    binding: Binding,
    profile: Profile,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    /// What every host gets; none before the first login.
    pin: Option<Pin>,
    host: Option<Host>,
    idle: Vec<UnixStream>,
    /// Counts the hosts: a channel of an earlier one is not given back.
    generation: u64,
    /// The present host has answered a call: if it goes down now, it is started again at once.
    served: bool,
    back_off: BackOff,
    /// Why there is no host, if there is none.
    gone: String,
    pin_refused: Option<String>,
}

/// A running child; its end of `control` closing tells it to go.
struct Host {
    child: Child,
    _control: UnixStream,
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be gone already. Waiting for it may take as long as a driver holds it, so another thread waits.
        let _ = self.child.kill();
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = std::thread::Builder::new().name("host-reaper".to_owned()).spawn(move || {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        });
    }
}

impl HostToken {
    /// Starts a host for a token and waits until it has opened it.
    ///
    /// # Errors
    /// As [`HostToken::login`].
    pub fn start(program: HostProgram, binding: &Binding, profile: &Profile, pin: Pin) -> Result<HostToken> {
        let token = HostToken::waiting(program, binding, profile);
        token.login(pin)?;
        Ok(token)
    }

    /// A token that has no PIN yet: it refuses every call until [`HostToken::login`].
    #[must_use]
    pub fn waiting(program: HostProgram, binding: &Binding, profile: &Profile) -> HostToken {
        let state = State { pin_refused: Some("it has not been logged in yet".to_owned()), ..State::default() };
        HostToken {
            program,
            binding: binding.clone(),
            profile: profile.clone(),
            state: Mutex::new(state),
            returned: Condvar::new(),
        }
    }

    /// Ends the host if there is one, and starts one that tries this PIN, once. A device that cannot be reached is
    /// tried again when it is next called and its time has come; a PIN that was refused never is.
    ///
    /// # Errors
    /// Those of [`super::open`], as the host says them; `TOKEN_UNAVAILABLE` if it does not answer in time.
    pub fn login(&self, pin: Pin) -> Result<()> {
        let mut state = self.lock();
        state.idle.clear();
        if state.host.take().is_some() {
            state.generation += 1;
        }
        (state.pin_refused, state.served) = (None, false);
        let spawned = self.spawn(&pin);
        state.pin = Some(pin);
        let done = match spawned {
            Ok((host, idle)) => {
                (state.host, state.idle) = (Some(host), idle);
                state.back_off.reset();
                Ok(())
            }
            Err(e) => {
                let _ = self.not_started(&mut state, &e);
                Err(e)
            }
        };
        drop(state);
        self.returned.notify_all();
        done
    }

    /// Whether it has a PIN that may be tried.
    #[must_use]
    pub fn has_pin(&self) -> bool {
        self.lock().pin_refused.is_none()
    }

    /// Process id of the host now, for tests and for `status`.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().host.as_ref().map(|host| host.child.id())
    }

    /// Hosts that were started before the present one.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, pin: &Pin) -> Result<(Host, Vec<UnixStream>)> {
        let failed = |e: io::Error| Error::new(Reason::TokenUnavailable, "the token host cannot be started").detail(e);
        let (mut control, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.arguments).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        if let Some(directory) = &self.binding.directory {
            command.envs(self.profile.environment(directory));
        }
        // A group of its own: an interrupt from the terminal is for the service, which then drains.
        let child = command.process_group(0).spawn().map_err(failed)?;
        // The command holds the child's end of the socket; while it is open here, the child's death shows no end.
        drop(command);
        let host = Host { child, _control: control.try_clone().map_err(failed)? };
        let idle = self.introduce(&mut control, pin).map_err(|e| {
            Error::new(Reason::TokenUnavailable, format!("the token host of {} did not open it", self.binding.name))
                .detail(e)
        })??;
        Ok((host, idle))
    }

    /// Tells a fresh host what to open; gives the channels, or the host's refusal.
    fn introduce(&self, control: &mut UnixStream, pin: &Pin) -> io::Result<Result<Vec<UnixStream>>> {
        let sessions = u32::try_from(self.binding.sessions.max(1)).unwrap_or(1);
        let hello = Hello {
            binding: serde_json::to_string(&self.binding)?,
            profile: serde_json::to_string(&self.profile)?,
            sessions,
        };
        control.set_read_timeout(Some(OPEN_MAX))?;
        control.set_write_timeout(Some(OPEN_MAX))?;
        wire::write_message(control, &hello)?;
        wire::write_frame(control, pin.expose().as_bytes())?;
        let mut channels = Vec::new();
        for _ in 0..sessions {
            let (ours, theirs) = UnixStream::pair()?;
            let descriptors = [theirs.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            rustix::net::sendmsg(&*control, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
            channels.push(ours);
        }
        Ok(wire::read_message::<Opened>(control)?.into_result().map(|()| channels))
    }

    /// Borrows a channel, starting the host again if it is gone and its time has come.
    fn channel(&self) -> Result<(UnixStream, u64), Failure> {
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.pin_refused {
                return Err(failure(Class::Pin, Outcome::Refused, why.clone()));
            }
            if state.host.is_none() {
                if !state.back_off.is_over() {
                    let why = format!("{}; it is tried again soon", state.gone);
                    return Err(failure(Class::Token, Outcome::Refused, why));
                }
                let Some(pin) = &state.pin else {
                    let why = "it has not been logged in yet".to_owned();
                    return Err(failure(Class::Pin, Outcome::Refused, why));
                };
                match self.spawn(pin) {
                    Ok((host, idle)) => {
                        (state.host, state.idle, state.served) = (Some(host), idle, false);
                        self.returned.notify_all();
                    }
                    Err(e) => return Err(self.not_started(&mut state, &e)),
                }
            }
            if let Some(channel) = state.idle.pop() {
                return Ok((channel, state.generation));
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn not_started(&self, state: &mut State, e: &Error) -> Failure {
        if matches!(e.reason(), Reason::PinRefused | Reason::PinLatched) {
            state.pin_refused = Some(e.message().to_owned());
            return failure(Class::Pin, Outcome::Refused, e.message().to_owned());
        }
        state.back_off.longer();
        e.message().clone_into(&mut state.gone);
        failure(Class::Token, Outcome::Refused, e.message().to_owned())
    }

    /// One call and its answer, within the limit. A host that does not keep it, or says nonsense, is killed.
    fn call(&self, call: &Call, limit: Duration) -> Result<Answer, Failure> {
        let (mut channel, generation) = self.channel()?;
        let asked = channel
            .set_read_timeout(Some(limit))
            .and_then(|()| wire::write_message(&mut channel, call))
            .and_then(|()| wire::read_message::<Answer>(&mut channel));
        match asked {
            Ok(answer) => {
                let mut state = self.lock();
                if state.generation == generation {
                    state.idle.push(channel);
                    state.served = true;
                    state.back_off.reset();
                }
                drop(state);
                self.returned.notify_one();
                match answer.failure {
                    None => Ok(answer),
                    Some(wire) => {
                        let failure = Failure::from(wire);
                        if failure.class == Class::Module {
                            self.kill(generation, &failure.to_string());
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
                self.kill(generation, &why);
                Err(failure(Class::Module, Outcome::Unknown, why))
            }
        }
    }

    /// Ends the host of this generation, if it is still the one.
    fn kill(&self, generation: u64, why: &str) {
        let mut state = self.lock();
        if state.generation == generation {
            why.clone_into(&mut state.gone);
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

    /// A call that changes nothing: once more if the host went down under it.
    fn twice(&self, call: &Call) -> Result<Answer, Failure> {
        let limit = Duration::from_millis(self.profile.sessions.call_ms_max);
        match self.call(call, limit) {
            Err(f) if f.class == Class::Module => {
                let wait = self.lock().back_off.remaining();
                std::thread::sleep(wait);
                self.call(call, limit)
            }
            answer => answer,
        }
    }
}

impl Token for HostToken {
    fn describe(&self) -> Result<Description, Failure> {
        from_json(&self.twice(&Call::describe())?.json)
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Failure> {
        let answer = self.call(&Call::generate(request), GENERATE_MAX)?;
        Ok(Generated { public: public(&answer)?, evidence: from_json(&answer.json)? })
    }

    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure> {
        public(&self.twice(&Call::public_key(id))?)
    }

    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(self.twice(&Call::sign(key, hash, digest))?.output)
    }

    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure> {
        Ok(Secret::new(self.twice(&Call::decrypt(key, padding, ciphertext))?.output))
    }
}

fn public(answer: &Answer) -> Result<PublicKey, Failure> {
    wire::public_of(&answer.public).ok_or_else(nonsense)
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|_| nonsense())
}

fn nonsense() -> Failure {
    failure(Class::Module, Outcome::Unknown, "an answer that makes no sense".to_owned())
}

fn failure(class: Class, outcome: Outcome, code: String) -> Failure {
    Failure { class, outcome, function: "token host", code }
}
