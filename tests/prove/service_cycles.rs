//! Token hosts killed two hundred times, and as often again, under the whole service and eight callers: each act has one
//! outcome, what is done was answered, and in the second half the service does not grow.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::load::{Load, all_recorded};
use crate::kit::token::copy_files;
use crate::kit::{Draft, Instance, events};
use crate::size::{CYCLES, Size, WARM_UP};

/// Memory that the service may have gained in the second two hundred, in KiB: two connections to the store more, with their
/// caches. In the first ones all else that it keeps reaches its size.
const GROWTH_KIB_MAX: u64 = 5 * 1024;

/// The process that holds a replica, and how many have held it before.
fn host(instance: &Instance, replica: &str) -> (Option<Pid>, u64) {
    let all = instance.json(&["token", "status"]);
    let found = all.as_array().unwrap().iter().find(|one| one["replica"] == replica).unwrap();
    let pid = found["host_pid"].as_i64().filter(|pid| *pid > 0);
    (pid.and_then(|pid| Pid::from_raw(pid.try_into().unwrap())), found["host_restarts"].as_u64().unwrap())
}

/// Kills the host of a replica again and again.
async fn killed(instance: &Instance, draft: &Draft, replica: &str) {
    let begun = Instant::now();
    let load = Load::start(instance, draft, 0, 8).await;
    let mut looks = Vec::new();
    let mut times = Vec::new();
    for cycle in 0..=2 * CYCLES {
        let end = Instant::now() + Duration::from_secs(60);
        let killed = loop {
            if let (Some(pid), before) = host(instance, replica) {
                let _ = kill_process(pid, Signal::KILL);
                break before;
            }
            assert!(Instant::now() < end, "no host holds {replica}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let at = Instant::now();
        while !matches!(host(instance, replica), (Some(_), restarts) if restarts > killed) {
            assert!(Instant::now() < end, "no other host holds {replica}");
        }
        times.push(at.elapsed());
        let before = load.received();
        while load.received() < before + 8 {
            assert!(Instant::now() < end, "nothing is signed any more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if [WARM_UP, CYCLES, 2 * CYCLES].contains(&cycle) {
            looks.push(Size::of(instance.pid()).unwrap());
        }
    }
    let answered = load.end().await;
    let log = instance.closed_log();
    all_recorded(&log, &answered);
    one_outcome_each(&log, answered.len());
    times.sort();
    let (half, longest) = (times[CYCLES], times[2 * CYCLES]);
    println!(
        "the host of {replica} killed {} times under the service: {} answers, all in a log of {} records, each act \
         with one outcome; a host again after {half:.0?} at the median and {longest:.0?} at the longest; {:.0?}",
        2 * CYCLES,
        answered.len(),
        log.len(),
        begun.elapsed(),
    );
    let [first, middle, last] = looks[..] else { panic!("three looks") };
    println!("  cycle {WARM_UP}: {first:?}\n  cycle {CYCLES}: {middle:?}\n  cycle {}: {last:?}", 2 * CYCLES);
    assert!(half < Duration::from_secs(2), "{times:?}");
    assert!(last.has_not_grown(&middle, GROWTH_KIB_MAX), "{looks:?}");
}

/// Every act on a document has one outcome, and as many are done as were answered.
fn one_outcome_each(log: &[Value], answered: usize) {
    let act = |seq: u64| &log[usize::try_from(seq).unwrap()]["event"]["act"]["kind"];
    let mut outcomes = BTreeMap::<u64, usize>::new();
    let mut done = 0;
    for outcome in events(log, "outcome") {
        let intent = outcome["intent"].as_u64().unwrap();
        *outcomes.entry(intent).or_default() += 1;
        if act(intent) == "use-license" && outcome["result"]["is"] == "done" {
            done += 1;
        }
    }
    assert_eq!(outcomes.len(), events(log, "intent").len(), "every intent has an outcome");
    assert!(outcomes.values().all(|count| *count == 1), "an act with two outcomes");
    assert_eq!(done, answered, "what is done was answered, and nothing else was");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_host_killed_two_hundred_times_under_the_service() {
    let instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    killed(&instance, &draft, "main").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_killed_two_hundred_times_under_the_service() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    copy_files(&instance.data().join("token"), &instance.data().join("token-copy"));
    instance.configure("\n[[token.replica]]\nname = \"copy\"\ndirectory = \"token-copy\"\n");
    instance.start();
    killed(&instance, &draft, "copy").await;
}
