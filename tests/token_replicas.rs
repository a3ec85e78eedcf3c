//! Replicas under load: one dies, one lies, one comes back. A replica of SoftHSM is a copied token directory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, signature};
use keyward::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use keyward::token::host::HostToken;
use keyward::token::lane::{Lane, LaneError, Priority};
use keyward::token::probe::heartbeat;
use keyward::token::profile::Profile;
use keyward::token::replica::{Change, Health, Replicas};
use keyward::token::{Class, Failure, Generate, KeyRef, Outcome, Padding, Token, prepare_directory};

use crate::kit::token::faulty::Faulty;
use crate::kit::token::{Held, TestToken, USER_PIN, copy_files};

const MESSAGE: &[u8] = b"a message for replicas";

/// Two hosts over two copies of one token, and its key.
struct Pair {
    hosts: Vec<Arc<HostToken>>,
    replicas: Arc<Replicas>,
    key: Arc<KeyRef>,
    _first: TestToken,
}

impl Pair {
    fn new() -> Pair {
        let first = TestToken::make("softhsm", Held::InHost);
        let id = KeyId::random().unwrap();
        let request =
            Generate { id, label: "replica".to_owned(), algorithm: KeyAlgorithm::Rsa(2048), sign: true, decrypt: true };
        let made = first.open().generate(&request).unwrap();
        let directory = first.binding.directory.clone().unwrap();
        let copy = directory.with_file_name(format!("copy-of-{}", first.binding.serial));
        prepare_directory(&first.profile, &copy).unwrap();
        copy_files(&directory.join("tokens"), &copy.join("tokens"));
        let mut second = first.binding.clone();
        second.directory = Some(copy);
        let second = first.described_as(first.profile.clone(), second);
        let hosts = [&first, &second].map(|test| Arc::new(test.host(USER_PIN).unwrap())).to_vec();
        let replicas = replicas_of([&hosts[0], &hosts[1]]);
        let key = Arc::new(KeyRef { id, public: made.public });
        Pair { hosts, replicas, key, _first: first }
    }

    /// A round of probes.
    async fn probe(&self, idle: Duration, act: impl Fn(&dyn Token) -> Result<(), Failure> + Clone + Send + 'static) {
        for replica in ["one", "two"] {
            self.replicas.probe(replica, idle, act.clone()).await;
        }
    }

    async fn sign(&self, key: &Arc<KeyRef>) -> Result<String, LaneError> {
        let key = Arc::clone(key);
        let sha256 = digest::digest(&digest::SHA256, MESSAGE);
        let deadline = Instant::now() + Duration::from_secs(4);
        let act = move |token: &dyn Token| token.sign(&key, Hash::Sha256, sha256.as_ref());
        let served = self.replicas.run(Priority::License, deadline, act).await?;
        let PublicKey::Rsa(rsa) = &self.key.public else { panic!("the key is RSA") };
        let public = signature::UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, rsa.pkcs1_der());
        public.verify(MESSAGE, &served.value).unwrap();
        Ok(served.replica)
    }
}

/// Replicas `one`, which serves first if neither is busy, and `two`.
fn replicas_of(hosts: [&Arc<HostToken>; 2]) -> Arc<Replicas> {
    let member = |(host, name): (&Arc<HostToken>, &str)| {
        let lane = Lane::start(Arc::clone(host) as Arc<dyn Token>, 2, 64).unwrap();
        (name.to_owned(), lane, host.call_max())
    };
    Arc::new(Replicas::new(hosts.into_iter().zip(["one", "two"]).map(member).collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_notices_that_one_of_two_replicas_dies_again_and_again() {
    let pair = Arc::new(Pair::new());
    let (signed, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (pair, signed, over) = (Arc::clone(&pair), Arc::clone(&signed), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    pair.sign(&pair.key).await.unwrap();
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let key = Arc::clone(&pair.key);
    let probe = move |token: &dyn Token| heartbeat(token, &key, Padding::Oaep(Hash::Sha1));
    let mut killed = 0;
    while killed < 8 || signed.load(Ordering::Relaxed) < 100 {
        if let Some(pid) = pair.hosts[0].pid().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            killed += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        // What failed comes back by a probe.
        pair.probe(Duration::from_secs(60), probe.clone()).await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn a_replica_whose_key_differs_is_quarantined_and_the_other_serves() {
    let pair = Pair::new();
    // The first replica sees a key of another public half, as if it had been swapped there.
    let foreign = pair.hosts[0]
        .generate(&Generate {
            id: KeyId::random().unwrap(),
            label: "foreign".to_owned(),
            algorithm: KeyAlgorithm::Rsa(2048),
            sign: true,
            decrypt: true,
        })
        .unwrap();
    let (right, wrong) = (Arc::clone(&pair.key), KeyRef { id: pair.key.id, public: foreign.public });
    let lies = Arc::new(AtomicUsize::new(0));
    let act = {
        let lies = Arc::clone(&lies);
        move |token: &dyn Token| {
            let key = if lies.fetch_add(1, Ordering::Relaxed) == 0 { &wrong } else { &*right };
            token.sign(key, Hash::Sha256, &[7; 32])
        }
    };
    let deadline = Instant::now() + Duration::from_secs(4);
    let served = pair.replicas.run(Priority::License, deadline, act).await.unwrap();
    let status = pair.replicas.status();
    let (left_out, _) = status.iter().find(|(_, health)| matches!(health, Health::Quarantined { .. })).unwrap();
    assert_ne!(*left_out, served.replica);
    // Success on the other replica, and time, do not end a quarantine; a person does.
    for _ in 0..5 {
        assert_eq!(pair.sign(&pair.key).await.unwrap(), served.replica);
    }
    pair.replicas.changes().into_iter().for_each(Change::kept);
    assert!(pair.replicas.release(left_out) && !pair.replicas.release(left_out));
}

#[tokio::test]
async fn a_failed_replica_comes_back_by_a_probe_and_not_by_a_license() {
    let pair = Pair::new();
    pair.replicas.quarantine("one", "for this test");
    assert!(!pair.replicas.release("one"), "before its owner knows of it");
    pair.replicas.changes().into_iter().for_each(Change::kept);
    pair.replicas.release("one");
    assert!(matches!(pair.replicas.status()[0].1, Health::Failed { .. }));
    for _ in 0..5 {
        assert_eq!(pair.sign(&pair.key).await.unwrap(), "two");
    }
    let key = Arc::clone(&pair.key);
    let probe = move |token: &dyn Token| heartbeat(token, &key, Padding::Oaep(Hash::Sha1));
    // Told once, when it is kept: whoever is stopped before that has lost nothing.
    drop(pair.replicas.changes());
    let changes = pair.replicas.changes();
    assert!(changes.len() == 1 && pair.replicas.changes().is_empty());
    changes.into_iter().for_each(Change::kept);
    assert!(pair.replicas.changes().is_empty());
    // Nor by a login, which shows nothing of its keys.
    pair.replicas.assume("one", Health::Healthy);
    assert!(matches!(pair.replicas.status()[0].1, Health::Failed { .. }));
    pair.probe(Duration::from_secs(60), probe).await;
    assert_eq!(pair.replicas.status()[0].1, Health::Healthy);
    let changes = pair.replicas.changes();
    assert!(changes.len() == 1 && changes[0].replica == "one" && changes[0].health == Health::Healthy);
}

#[tokio::test]
async fn a_bad_ciphertext_costs_one_token_call_and_no_replica() {
    let pair = Pair::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let (key, counted) = (Arc::clone(&pair.key), Arc::clone(&calls));
    let act = move |token: &dyn Token| {
        counted.fetch_add(1, Ordering::Relaxed);
        token.decrypt(&key, Padding::Pkcs1, &[1; 256])
    };
    let refused = pair.replicas.run(Priority::License, Instant::now() + Duration::from_secs(4), act).await.unwrap_err();
    // SoftHSM says CKR_GENERAL_ERROR.
    assert!(matches!(refused, LaneError::Failed(f) if f.class == Class::Undecided));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(pair.replicas.status().iter().all(|(_, health)| *health == Health::Healthy));
}

#[tokio::test]
async fn a_flood_of_ciphertexts_that_do_not_decrypt_costs_one_probe_in_five_seconds_and_no_replica() {
    let pair = Pair::new();
    let deadline = || Instant::now() + Duration::from_secs(60);
    let probes = Arc::new(AtomicUsize::new(0));
    let counted = {
        let (key, probes) = (Arc::clone(&pair.key), Arc::clone(&probes));
        move |token: &dyn Token| {
            probes.fetch_add(1, Ordering::Relaxed);
            heartbeat(token, &key, Padding::Oaep(Hash::Sha1))
        }
    };
    // Both have done something, so that no round tries them out for idleness.
    pair.probe(Duration::ZERO, counted.clone()).await;
    assert_eq!(probes.swap(0, Ordering::Relaxed), 2);
    let begun = Instant::now();
    for _ in 0..100 {
        let key = Arc::clone(&pair.key);
        let bad = move |token: &dyn Token| token.decrypt(&key, Padding::Oaep(Hash::Sha1), &[1; 256]);
        pair.replicas.run(Priority::License, deadline(), bad).await.unwrap_err();
        pair.probe(Duration::from_secs(3600), counted.clone()).await;
        assert!(pair.replicas.status().iter().all(|(_, health)| *health == Health::Healthy));
    }
    let at_most = 2 * usize::try_from(begun.elapsed().as_secs()).unwrap() / 5;
    assert!(probes.load(Ordering::Relaxed) <= at_most, "{probes:?} probes in {:?}", begun.elapsed());
    // What was doubted is tried out, and that is the end of it.
    while probes.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
        pair.probe(Duration::from_secs(3600), counted.clone()).await;
    }
    assert!(pair.replicas.status().iter().all(|(_, health)| *health == Health::Healthy));
}

#[tokio::test]
async fn a_replica_that_failed_its_probe_is_not_back_because_it_still_does_something_else() {
    let pair = Pair::new();
    let broken = |_: &dyn Token| Err(failure(Class::Undecided, Outcome::Refused));
    pair.probe(Duration::ZERO, broken).await;
    assert!(!pair.replicas.serve());
    // Nobody else is left, so they are asked.
    pair.sign(&pair.key).await.unwrap();
    assert!(!pair.replicas.serve());
    pair.probe(Duration::from_secs(3600), |_: &dyn Token| Ok(())).await;
    assert!(pair.replicas.status().iter().all(|(_, health)| *health == Health::Healthy));
}

#[tokio::test]
async fn a_replica_that_lacks_the_probe_key_alone_is_passed_over_for_another_and_serves_if_it_is_all_that_is_left() {
    let pair = Pair::new();
    let standing = || pair.replicas.status().into_iter().map(|(_, health)| health.name()).collect::<Vec<_>>();
    let lacking = |_: &dyn Token| Err(failure(Class::KeyMissing, Outcome::Refused));
    pair.probe(Duration::ZERO, lacking).await;
    assert_eq!(standing(), ["failed", "healthy"]);
    // The other one fails for good: the device that answers is better, though nobody asks it for anything.
    let broken = |_: &dyn Token| Err(failure(Class::Token, Outcome::Refused));
    pair.replicas.probe("two", Duration::ZERO, broken).await;
    assert_eq!(standing(), ["failed", "failed"]);
    pair.probe(Duration::from_secs(3600), lacking).await;
    assert_eq!(standing(), ["healthy", "failed"]);
    // Only a signature that verifies ends what a released replica is on trial for.
    pair.replicas.quarantine("one", "for this test");
    assert!(!pair.replicas.release("one"), "before its owner knows of it");
    pair.replicas.changes().into_iter().for_each(Change::kept);
    pair.replicas.release("one");
    pair.replicas.probe("one", Duration::ZERO, lacking).await;
    assert_eq!(standing(), ["failed", "failed"]);
}

#[tokio::test]
async fn a_decryption_under_which_a_module_fails_is_asked_of_the_other_replica() {
    let pair = Pair::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let act = move |_: &dyn Token| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Err(failure(Class::Module, Outcome::Unknown)),
        _ => Ok(()),
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    pair.replicas.run(Priority::License, deadline, act).await.unwrap();
}

fn failure(class: Class, outcome: Outcome) -> Failure {
    Failure { class, outcome, function: "a test", code: "as this test says".to_owned() }
}

#[tokio::test]
async fn what_one_replica_may_have_done_stays_open_whatever_the_next_one_says() {
    let pair = Pair::new();
    for class in [Class::Caller, Class::Undecided, Class::Unsupported, Class::Token, Class::KeyMissing] {
        let calls = Arc::new(AtomicUsize::new(0));
        let act = move |_: &dyn Token| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err::<(), _>(failure(Class::Token, Outcome::Unknown)),
            _ => Err(failure(class, Outcome::Refused)),
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = pair.replicas.run(Priority::License, deadline, act).await.unwrap_err();
        assert_eq!(said.outcome(), Outcome::Unknown, "{class:?}: {said:?}");
    }
}

/// An act that says nothing where it is asked first, until it is let go.
fn held_first() -> (Arc<Barrier>, impl Fn(&dyn Token) -> Result<(), Failure> + Clone + Send + Sync + 'static) {
    let (calls, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
    let act = {
        let held = Arc::clone(&held);
        move |_: &dyn Token| {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                held.wait();
            }
            Ok(())
        }
    };
    (held, act)
}

#[tokio::test]
async fn a_replica_that_says_nothing_costs_its_part_of_the_time_and_the_other_one_serves() {
    let pair = Pair::new();
    let (held, act) = held_first();
    let served = pair.replicas.run(Priority::License, Instant::now() + Duration::from_secs(3), act).await;
    held.wait();
    served.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_costs_a_patient_caller_one_try_and_the_next_ones_none() {
    let faulty = Faulty::new();
    let mut well = faulty.test.described_as(Profile::load("softhsm").unwrap(), faulty.test.binding.clone());
    well.binding.name = "well".to_owned();
    let well = Arc::new(well.host(USER_PIN).unwrap());
    let replicas = replicas_of([&faulty.token, &well]);
    faulty.sign().unwrap();
    faulty.script("C_Sign always log\nC_Sign always hang");
    faulty.calls();
    let key = faulty.key.clone();
    let act = move |token: &dyn Token| token.sign(&key, Hash::Sha256, Faulty::digest().as_ref());
    for _ in 0..8 {
        let patience = Instant::now() + Duration::from_secs(3600);
        let served = replicas.run(Priority::License, patience, act.clone()).await.unwrap();
        assert!(served.replica == "two" && faulty.verifies(&served.value));
    }
    assert_eq!(faulty.calls(), ["C_Sign"]);
    assert_eq!(faulty.token.restarts(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_act_is_overdue_is_passed_over_before_that_act_ends() {
    let pair = Pair::new();
    let (held, act) = held_first();
    let patience = Instant::now() + Duration::from_secs(3600);
    let served = pair.replicas.run(Priority::License, patience, act).await.unwrap();
    assert_eq!(served.replica, "two");
    let health = || pair.replicas.status()[0].1.clone();
    assert!(matches!(health(), Health::Failed { .. }), "{:?}", health());
    // What its other session does tells nothing of the one that is held; its end does.
    pair.probe(Duration::from_secs(60), |_| Ok(())).await;
    assert!(matches!(health(), Health::Failed { .. }), "{:?}", health());
    for _ in 0..5 {
        assert_eq!(pair.sign(&pair.key).await.unwrap(), "two");
    }
    held.wait();
    crate::kit::eventually("the act ended", || health() == Health::Healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_has_for_too_long_is_told_apart_from_what_it_does_not_get() {
    let (here, pair) = (TestToken::make("softhsm", Held::InProcess), Pair::new());
    let tokens: [Arc<dyn Token>; 2] = [Arc::from(here.open()), Arc::clone(&pair.hosts[0]) as Arc<dyn Token>];
    // The first one has the act as soon as that begins, the other when it is asked.
    for (token, words) in tokens.into_iter().zip(["takes longer than its profile allows", "has not opened the device"])
    {
        let lane = Lane::start(token, 1, 8).unwrap();
        let one = Arc::new(Replicas::new(vec![("one".to_owned(), lane, Duration::from_millis(100))]));
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let held = Arc::new(std::sync::Mutex::new(held));
        let asked = tokio::spawn({
            let one = Arc::clone(&one);
            let act = move |_: &dyn Token| {
                let _ = held.lock().unwrap().recv();
                Ok(())
            };
            async move { one.run(Priority::License, Instant::now() + Duration::from_secs(60), act).await }
        });
        crate::kit::eventually("it is overdue", || one.status()[0].1.why().contains(words));
        drop(release);
        asked.await.unwrap().unwrap();
        assert!(one.serve());
    }
}

#[tokio::test]
async fn a_short_deadline_says_nothing_of_a_replica_and_what_the_device_says_later_does() {
    let pair = Pair::new();
    let held = Arc::new(Barrier::new(3));
    let act = {
        let held = Arc::clone(&held);
        move |_: &dyn Token| {
            held.wait();
            Err::<(), _>(failure(Class::Token, Outcome::Unknown))
        }
    };
    let late = pair.replicas.run(Priority::License, Instant::now() + Duration::from_millis(200), act).await;
    assert_eq!(late, Err(LaneError::Late));
    assert!(pair.replicas.serve() && pair.replicas.status().iter().all(|(_, health)| *health == Health::Healthy));
    held.wait();
    crate::kit::eventually("nobody waits for the answers, and they count", || !pair.replicas.serve());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whose_time_ends_while_a_host_is_started_is_late_and_says_nothing_of_the_replica() {
    let faulty = Faulty::new();
    let lane = Lane::start(Arc::clone(&faulty.token) as Arc<dyn Token>, 1, 8).unwrap();
    let one = Replicas::new(vec![("one".to_owned(), lane, Duration::from_secs(60))]);
    let sign = |time| {
        let (key, digest) = (faulty.key.clone(), Faulty::digest());
        let act = move |token: &dyn Token| token.sign(&key, Hash::Sha256, digest.as_ref());
        one.run(Priority::License, Instant::now() + time, act)
    };
    faulty.script("C_Sign always log\nC_SignInit 1 crash\nC_GetSlotList 1 delay 1500");
    assert_eq!(sign(Duration::from_millis(500)).await, Err(LaneError::Late));
    crate::kit::eventually("the host is started", || one.statuses()[0].busy == 0);
    assert_eq!((&one.statuses()[0].health, faulty.calls().len()), (&Health::Healthy, 0));
    assert!(faulty.verifies(&sign(Duration::from_secs(60)).await.unwrap().value));
}

#[tokio::test]
async fn a_probe_that_is_slow_within_the_times_of_its_profile_is_no_failure() {
    let pair = Pair::new();
    let lane = Lane::start(Arc::clone(&pair.hosts[0]) as Arc<dyn Token>, 1, 8).unwrap();
    let slow = Replicas::new(vec![("slow".to_owned(), lane, Duration::from_secs(60))]);
    let act = |_: &dyn Token| {
        std::thread::sleep(Duration::from_millis(5500));
        Ok(())
    };
    slow.probe("slow", Duration::ZERO, act).await;
    let status = slow.statuses().remove(0);
    assert_eq!(status.health, Health::Healthy);
    assert!(status.answered.is_some());
}
