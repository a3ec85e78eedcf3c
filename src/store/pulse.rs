//! Whether the store can be written, as far as its last commits tell.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Reason};

/// What the last commits tell.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<Beat>);

#[derive(Debug, Default)]
struct Beat {
    /// Since when a commit is under way.
    since: Option<Instant>,
    /// Why the last one failed.
    failed: Option<Error>,
}

impl Pulse {
    /// A commit begins.
    pub(super) fn begin(&self) {
        self.beat(|beat| beat.since = Some(Instant::now()));
    }

    /// It has ended.
    pub(super) fn end(&self, failed: Option<&Error>) {
        self.beat(|beat| *beat = Beat { since: None, failed: failed.cloned() });
    }

    /// Why the store cannot be written: the last commit failed, or one is under way for longer than this.
    pub(super) fn trouble(&self, patience: Duration) -> Option<Error> {
        self.stuck(patience).or_else(|| self.beat(|beat| beat.failed.clone()))
    }

    /// That a commit is under way for longer than this.
    pub(super) fn stuck(&self, patience: Duration) -> Option<Error> {
        let waited = self.beat(|beat| beat.since)?.elapsed();
        (waited > patience).then(|| {
            let words = format!("the store has not answered for {} ms", waited.as_millis());
            Error::new(Reason::StoreUnavailable, words)
                .hint("look at the disk of the store, or at the database server and the way to it")
        })
    }

    fn beat<T>(&self, look: impl FnOnce(&mut Beat) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
