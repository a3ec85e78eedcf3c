//! Room on the disk of a store in a file: some is set aside, so that what is begun can still be recorded when the rest is
//! taken.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;

use crate::error::{Error, Reason, Result};

/// Room that is set aside, in bytes: some hundred commits.
pub const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// Free room below which people are warned, in bytes.
pub const LOW_BYTES: u64 = 256 * 1024 * 1024;
/// Free room below which a commit that failed is taken to have failed for want of room, in bytes.
const FULL_BYTES: u64 = 1024 * 1024;

/// The room of one store.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    reserve: PathBuf,
    /// Whether the reserve was given up, so that nothing new may begin.
    spent: AtomicBool,
    low: AtomicBool,
}

impl Space {
    /// Sets room aside beside a store's file. Where that cannot be done, there is none, and the log says so.
    pub(super) fn beside(store: &Path) -> Self {
        let mut reserve = store.as_os_str().to_owned();
        reserve.push("-reserve");
        let directory = match store.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let space =
            Space { directory, reserve: reserve.into(), spent: AtomicBool::new(false), low: AtomicBool::new(false) };
        if let Err(fault) = space.set_aside() {
            tracing::warn!(%fault, "no room can be set aside on the disk of the store");
        }
        space
    }

    /// Whether something new may begin.
    pub(super) fn check(&self) -> Result<()> {
        if !self.spent.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(Reason::StoreUnavailable, "the disk of the store is full; what was begun is still recorded")
            .hint("make room on the disk of the data directory; the service goes on by itself then"))
    }

    /// After a commit that failed: gives the reserve up if the disk is full.
    pub(super) fn failed(&self) {
        if !self.reserve.exists() || self.free().is_none_or(|free| free > FULL_BYTES) {
            return;
        }
        if std::fs::remove_file(&self.reserve).is_ok() && !self.spent.swap(true, Ordering::AcqRel) {
            tracing::error!("the disk of the store is full: nothing new is begun until there is room");
        }
    }

    /// Takes the reserve back once there is room for it, and warns while there is little left.
    pub(super) fn look(&self) {
        if self.spent.load(Ordering::Acquire) {
            let enough = self.free().is_some_and(|free| free > 2 * RESERVE_BYTES);
            if enough && self.set_aside().is_ok() {
                self.spent.store(false, Ordering::Release);
                tracing::info!("there is room on the disk of the store again");
            }
        }
        let low = self.free().is_some_and(|free| free < LOW_BYTES);
        if low != self.low.swap(low, Ordering::AcqRel) {
            match low {
                true => tracing::warn!(free_bytes = self.free(), "little room is left on the disk of the store"),
                false => tracing::info!("there is enough room on the disk of the store again"),
            }
        }
    }

    /// Whether little room is left.
    pub(super) fn is_low(&self) -> bool {
        self.low.load(Ordering::Acquire)
    }

    fn set_aside(&self) -> std::io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(&self.reserve)?;
        let made = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES);
        if made.is_err() {
            // A part of it would be of no use, and in the way.
            std::fs::remove_file(&self.reserve)?;
        }
        Ok(made?)
    }

    /// Free room for this user, in bytes.
    fn free(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.directory).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
