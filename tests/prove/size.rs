//! What a process holds, looked at twice: after its first losses, and after the last.

#![allow(clippy::unwrap_used)]

use std::fs;

/// Losses of each kind.
pub(crate) const CYCLES: usize = 200;
/// Losses before the first look, in which everything reaches its size.
pub(crate) const WARM_UP: usize = 20;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
    zombies: usize,
}

impl Size {
    /// Of a process that runs; `None` if it has just ended.
    pub(crate) fn of(pid: u32) -> Option<Size> {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).ok().map(Iterator::count);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Some(Size {
            descriptors: count("fd")?,
            threads: count("task")?,
            resident_kib: resident?.parse().ok()?,
            zombies: children(pid).filter(|(_, state)| state == "Z").count(),
        })
    }

    /// Whether this is no more than before, but for what comes and goes, and so much memory.
    pub(crate) fn has_not_grown(&self, before: &Size, memory_kib: u64) -> bool {
        // One that has just ended is waited for in a moment; a leak would show two hundred times.
        self.descriptors <= before.descriptors + 8
            && self.threads <= before.threads + 8
            && self.zombies <= 2
            && self.resident_kib <= before.resident_kib + memory_kib
    }
}

/// The children of a process, with the letter of their state.
pub(crate) fn children(pid: u32) -> impl Iterator<Item = (u32, String)> {
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let parent = pid.to_string();
    // pid (name) state ppid …
    stats.filter_map(move |stat| {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.to_owned();
        let number = stat.split_whitespace().next()?.parse().ok()?;
        (fields.next()? == parent).then_some((number, state))
    })
}
