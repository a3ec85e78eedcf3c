//! The inside of a token host: opens one token and answers for it until the service goes away.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::wire::{self, Act, Answer, Call, Channel, Hello, Opened};
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::token::profile::Profile;
use crate::token::{Binding, Class, Failure, Outcome, Token};

/// Serves one token over the socket that is standard input. Returns only with an error of the start; once it serves,
/// it ends with the service, by a signal to itself: destructors of modules are known to crash at exit.
///
/// # Errors
/// `INTERNAL` if standard input is not the socket of a service, or the system refuses the hardening.
pub fn serve() -> Result<()> {
    let broken = |what: &'static str| move |e: io::Error| Error::new(Reason::Internal, what).detail(e);
    harden().map_err(broken("the token host cannot restrict itself"))?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(broken("standard input is not open"))?;
    let mut control = Channel::from(stdin);
    let not_a_service = broken("standard input is not a service that wants a token");
    let hello: Hello = control.read_message().map_err(not_a_service)?;
    let mut channels = Vec::new();
    for _ in 0..hello.sessions {
        channels.push(receive_channel(&control).map_err(not_a_service)?);
    }
    let opened = open(&hello, || ask_pin(&mut control));
    let answer = opened.as_ref().map_or_else(Opened::refusal, |_| Opened::default());
    // From here on the end of the socket is what tells of the service's end: the thread that started this process, to
    // which the signal is bound, may end as soon as it has the answer.
    rustix::process::set_parent_process_death_signal(None).map_err(|e| broken("a signal stays set")(e.into()))?;
    control.write_message(&answer).map_err(not_a_service)?;
    if let Ok(token) = opened {
        for channel in channels {
            let token = Arc::clone(&token);
            std::thread::Builder::new()
                .name("session".to_owned())
                .spawn(move || serve_channel(&*token, channel))
                .map_err(broken("the system gives no thread"))?;
        }
        // Nothing more is said on this socket; its end is the service's end, or its wish.
        let _ = control.read_frame();
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    Ok(())
}

/// Asks the service for the PIN, which is tried next.
fn ask_pin(control: &mut Channel) -> Result<Pin> {
    let unheard = |e: io::Error| Error::new(Reason::TokenUnavailable, "the service gives no PIN").detail(e);
    control.write_message(&Opened { wants_pin: true, ..Opened::default() }).map_err(unheard)?;
    let pin = control.read_frame().map_err(unheard)?;
    let pin = String::from_utf8(pin.to_vec());
    pin.map(Pin::new).map_err(|_| Error::new(Reason::PinSource, "the PIN is not UTF-8 text"))
}

fn open(hello: &Hello, pin: impl FnOnce() -> Result<Pin>) -> Result<Arc<dyn Token>> {
    let malformed = |e: serde_json::Error| Error::new(Reason::Internal, "the token host was told nonsense").detail(e);
    let binding: Binding = serde_json::from_str(&hello.binding).map_err(malformed)?;
    let profile: Profile = serde_json::from_str(&hello.profile).map_err(malformed)?;
    crate::token::open(&binding, &profile, pin).map(Arc::from)
}

/// No new privileges, no core dump or tracing, no descriptor but the standard ones, and death with the service.
fn harden() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let listing = format!("/proc/{}/fd", std::process::id());
    let open: Vec<i32> = std::fs::read_dir(&listing)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // The listing is open itself while it is read.
            let is_the_listing = std::fs::read_link(entry.path()).ok()?.as_os_str() == listing.as_str();
            if is_the_listing { None } else { entry.file_name().to_str()?.parse().ok() }
        })
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in open {
        // SAFETY: this runs first in a fresh process, so nothing in it holds a descriptor above standard error.
        unsafe { rustix::io::close(descriptor) };
    }
    Ok(())
}

/// Takes one session socket from the service.
fn receive_channel(control: &Channel) -> io::Result<Channel> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        control.socket(),
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.map(Channel::from).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The life of one session's thread: call, answer, call.
fn serve_channel(token: &dyn Token, mut channel: Channel) {
    while let Ok(call) = channel.read_message::<Call>() {
        let mut answer = perform(token, &call);
        let written = channel.write_message(&answer);
        zeroize::Zeroize::zeroize(&mut answer.output);
        if written.is_err() {
            return;
        }
    }
}

fn perform(token: &dyn Token, call: &Call) -> Answer {
    answer(token, call).unwrap_or_else(|failure| Answer { failure: Some((&failure).into()), ..Answer::default() })
}

fn answer(token: &dyn Token, call: &Call) -> std::result::Result<Answer, Failure> {
    let malformed = || Failure {
        class: Class::Module,
        outcome: Outcome::Refused,
        function: "module",
        code: "the token host was told nonsense".to_owned(),
    };
    let json = |value: serde_json::Result<String>| value.map_err(|_| malformed());
    match call.act() {
        Act::None => Err(malformed()),
        Act::Describe => Ok(Answer { json: json(serde_json::to_string(&token.describe()?))?, ..Answer::default() }),
        Act::Generate => {
            let made = token.generate(&call.request().ok_or_else(malformed)?)?;
            let json = json(serde_json::to_string(&made.evidence))?;
            Ok(Answer { json, public: wire::public_bytes(&made.public), ..Answer::default() })
        }
        Act::PublicKey => {
            let public = token.public_key(call.key_id().ok_or_else(malformed)?)?;
            Ok(Answer { public: wire::public_bytes(&public), ..Answer::default() })
        }
        Act::Sign => {
            let (key, hash) = call.key().zip(call.hash()).ok_or_else(malformed)?;
            Ok(Answer { output: token.sign(&key, hash, &call.input)?, ..Answer::default() })
        }
        Act::Decrypt => {
            let (key, padding) = call.key().zip(call.padding()).ok_or_else(malformed)?;
            let plaintext = token.decrypt(&key, padding, &call.input)?;
            Ok(Answer { output: plaintext.expose().to_vec(), ..Answer::default() })
        }
    }
}
