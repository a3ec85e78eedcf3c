//! Two hundred losses of each kind under a load of eight threads: no growth of memory, threads or descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use keyward::token::host::HostToken;
use keyward::token::{Generate, KeyRef, Token};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::token::faulty::Faulty;
use crate::kit::token::{Held, TestToken, USER_PIN, copy_files};
use crate::size::{CYCLES, Size, WARM_UP};

/// Memory that a process may have gained between the looks, in KiB: far below one signature's worth a cycle.
const GROWTH_KIB_MAX: u64 = 4096;

/// A token in a host under eight callers.
struct Callers {
    token: Arc<HostToken>,
    signed: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Callers {
    /// What they sign is always the same, and so is the signature.
    fn of(token: &Arc<HostToken>, key: &KeyRef) -> Callers {
        assert!(matches!(key.public, PublicKey::Rsa(_)));
        let right = Arc::new(token.sign(key, Hash::Sha256, &[7; 32]).unwrap());
        let (over, signed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let call = |_| {
            let (token, key, right) = (Arc::clone(token), key.clone(), Arc::clone(&right));
            let (over, signed) = (Arc::clone(&over), Arc::clone(&signed));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match token.sign(&key, Hash::Sha256, &[7; 32]) {
                        Ok(signature) => {
                            assert!(signature == *right, "a wrong signature");
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            })
        };
        let threads = (0..8).map(call).collect();
        Callers { token: Arc::clone(token), signed, over, threads }
    }

    fn signed(&self) -> usize {
        self.signed.load(Ordering::Relaxed)
    }

    /// Waits for eight signatures more than there were, made after the loss has happened.
    fn go_on(&self, has_happened: impl Fn() -> bool) {
        until("the loss happens", has_happened);
        let before = self.signed();
        until("they sign again", || self.signed() >= before + 8);
    }

    /// Brings about two hundred losses. `same_host`: what is lost is found again by the host that lost it, which must not
    /// grow either.
    fn meet(self, trouble: &str, same_host: bool, mut lose: impl FnMut(&Callers)) {
        let begun = Instant::now();
        let mut looks = Vec::new();
        for cycle in 0..=CYCLES {
            lose(&self);
            if cycle == WARM_UP || cycle == CYCLES {
                looks.push((Size::of(std::process::id()).unwrap(), self.token.pid().and_then(Size::of)));
            }
        }
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|caller| caller.join().unwrap());
        println!(
            "{trouble}: {} signatures, {} hosts before the last, {:.0?}; at cycle {WARM_UP} and {CYCLES}:",
            self.signed.load(Ordering::Relaxed),
            self.token.restarts(),
            begun.elapsed(),
        );
        let [(own, host), (own_later, host_later)] = looks[..] else { panic!("two looks") };
        println!("  service {own:?}\n          {own_later:?}\n  host    {host:?}\n          {host_later:?}");
        assert!(own_later.has_not_grown(&own, GROWTH_KIB_MAX), "{looks:?}");
        if same_host {
            assert!(host_later.unwrap().has_not_grown(&host.unwrap(), GROWTH_KIB_MAX), "{looks:?}");
            assert_eq!(self.token.restarts(), 0);
        }
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not in a minute: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a module does by script.
fn scripted(faulty: &Faulty, script: &str, same_host: bool) {
    Callers::of(&faulty.token, &faulty.key).meet(script, same_host, |callers| {
        faulty.script(script);
        callers.go_on(|| faulty.happened() > 0);
    });
}

#[test]
fn two_hundred_lost_sessions_leave_nothing_behind() {
    scripted(&Faulty::new(), "C_SignInit 1 close-session", true);
}

#[test]
fn two_hundred_lost_logins_leave_nothing_behind() {
    scripted(&Faulty::new(), "C_SignInit 1 logout", false);
}

#[test]
fn two_hundred_crashes_leave_nothing_behind() {
    scripted(&Faulty::new(), "C_Sign 1 crash", false);
}

#[test]
fn two_hundred_removals_leave_nothing_behind() {
    scripted(&Faulty::new(), "* 6 return 0x32", false);
}

#[test]
fn two_hundred_hangs_leave_nothing_behind() {
    let mut test = TestToken::make("softhsm", Held::InHost);
    test.profile.sessions.call_ms_max = 250;
    let faulty = Faulty::before(test);
    Callers::of(&faulty.token, &faulty.key).meet("C_Sign 1 hang", false, |callers| {
        let before = callers.token.restarts();
        faulty.script("C_Sign 1 hang");
        callers.go_on(|| callers.token.restarts() > before);
    });
}

#[test]
fn two_hundred_kills_of_the_host_leave_nothing_behind() {
    let faulty = Faulty::new();
    Callers::of(&faulty.token, &faulty.key).meet("the host killed", false, |callers| {
        let before = callers.token.restarts();
        until("there is a host", || callers.token.pid().is_some());
        if let Some(pid) = callers.token.pid().and_then(|pid| Pid::from_raw(pid.try_into().unwrap())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        callers.go_on(|| callers.token.restarts() > before);
    });
}

/// A TPM in software in a host, with one key.
fn tpm() -> (TestToken, Arc<HostToken>, KeyRef) {
    let test = TestToken::make("swtpm", Held::InHost);
    let token = Arc::new(test.host(USER_PIN).unwrap());
    let id = KeyId::random().unwrap();
    let request =
        Generate { id, label: "cycles".to_owned(), algorithm: KeyAlgorithm::Rsa(2048), sign: true, decrypt: false };
    let public = token.generate(&request).unwrap().public;
    (test, token, KeyRef { id, public })
}

#[test]
fn two_hundred_restarts_of_a_tpm_leave_nothing_behind() {
    let (mut test, token, key) = tpm();
    Callers::of(&token, &key).meet("the TPM restarted", true, |callers| {
        test.device.as_mut().unwrap().restart();
        callers.go_on(|| true);
    });
}

#[test]
fn a_tpm_that_is_replaced_and_put_back_two_hundred_times_leaves_nothing_behind() {
    let (mut test, token, key) = tpm();
    let directory = test.binding.directory.clone().unwrap();
    let (right, other) = (directory.join("right"), directory.join("other"));
    let device = test.device.as_mut().unwrap();
    device.stop();
    copy_files(&device.state(), &right);
    device.clear();
    until("its state is written", || device.state().read_dir().unwrap().count() > 0);
    device.stop();
    copy_files(&device.state(), &other);
    device.replace(&right);
    let named = || {
        let failure = token.sign(&key, Hash::Sha256, &[7; 32]).err();
        failure.is_some_and(|failure| failure.to_string().contains("cleared or replaced"))
    };
    Callers::of(&token, &key).meet("the TPM replaced by another and put back", true, |callers| {
        device.replace(&other);
        until("it is named so", named);
        device.replace(&right);
        callers.go_on(|| true);
    });
}
