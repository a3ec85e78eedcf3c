//! Two hundred losses of each kind under a load of eight threads: no growth of memory, threads or descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::kit::token::faulty::Faulty;

const CYCLES: usize = 200;
/// Cycles before the first look, in which everything reaches its size.
const WARM_UP: usize = 20;
/// Memory that a process may have gained between the looks, in KiB: far below one signature's worth a cycle.
const GROWTH_KIB_MAX: u64 = 4096;

/// Descriptors, threads, and resident KiB of a process.
fn size(pid: u32) -> (usize, usize, u64) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    (count("fd"), count("task"), resident.unwrap())
}

/// `same_host`: what is lost is found again by the host that lost it, which must not grow either.
fn two_hundred(script: &str, same_host: bool) {
    let faulty = Arc::new(Faulty::new());
    let (over, signed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (faulty, over, signed) = (Arc::clone(&faulty), Arc::clone(&over), Arc::clone(&signed));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match faulty.sign() {
                        Ok(signature) => {
                            assert!(faulty.verifies(&signature), "a wrong signature");
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            })
        })
        .collect();
    let mut looks = Vec::new();
    for cycle in 0..=CYCLES {
        let before = signed.load(Ordering::Relaxed);
        faulty.script(script);
        // The fault has happened and work goes on.
        while faulty.happened() == 0 || signed.load(Ordering::Relaxed) < before + 8 {
            std::thread::sleep(Duration::from_millis(2));
        }
        if cycle == WARM_UP || cycle == CYCLES {
            looks.push((size(std::process::id()), faulty.token.pid().map(size)));
        }
    }
    over.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    println!(
        "{script}: {} signatures, descriptors, threads and KiB at cycle {WARM_UP} and {CYCLES}:",
        signed.load(Ordering::Relaxed)
    );
    println!("  {looks:?}");
    let [(own, host), (own_later, host_later)] = looks[..] else { panic!("two looks") };
    // Callers open script files now and then; a leak would show two hundred times.
    assert!(own_later.0 <= own.0 + 8 && own_later.1 <= own.1 + 8, "{looks:?}");
    assert!(own_later.2 <= own.2 + GROWTH_KIB_MAX, "{looks:?}");
    if let (true, Some(host), Some(later)) = (same_host, host, host_later) {
        assert!(later.0 <= host.0 + 8 && later.1 <= host.1 && later.2 <= host.2 + GROWTH_KIB_MAX, "{looks:?}");
        assert_eq!(faulty.token.restarts(), 0);
    }
}

#[test]
fn two_hundred_lost_sessions_leave_nothing_behind() {
    two_hundred("C_SignInit 1 close-session", true);
}

#[test]
fn two_hundred_lost_logins_leave_nothing_behind() {
    two_hundred("C_SignInit 1 logout", false);
}

#[test]
fn two_hundred_crashes_leave_nothing_behind() {
    two_hundred("C_Sign 1 crash", false);
}

#[test]
fn two_hundred_removals_leave_nothing_behind() {
    two_hundred("* 6 return 0x32", false);
}
